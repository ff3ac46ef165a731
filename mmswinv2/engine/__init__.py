"""Code for MMEngine's runner: checkpoints, loops, hooks, strategies, and parameter groups."""
from ..hosts import is_installed, missing

if not is_installed('mmengine'):
    raise missing('mmengine', 'mmswinv2.engine')

from .batch_size import BatchSizeHook
from .checkpoint import read_run
from .checkpoint_hook import CheckpointHook
from .conversion import ConvertCheckpointHook
from .loops import EpochBasedTrainLoop, IterBasedTrainLoop
from .nonfinite import NonFiniteHook
from .optim import SwinOptimWrapperConstructor
from .own_data import CheckClassesHook
from .strategies import FSDPStrategy, ZeroStrategy

__all__ = ['BatchSizeHook', 'CheckClassesHook', 'CheckpointHook', 'ConvertCheckpointHook',
           'EpochBasedTrainLoop', 'FSDPStrategy', 'IterBasedTrainLoop', 'NonFiniteHook', 'SwinOptimWrapperConstructor',
           'ZeroStrategy', 'read_run']
