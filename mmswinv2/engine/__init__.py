"""Code for MMEngine's runner: checkpoints, loops, hooks, strategies, and parameter groups."""
from ..hosts import is_installed, missing

if not is_installed('mmengine'):
    raise missing('mmengine', 'mmswinv2.engine')

from .checkpoints import CheckpointHook
from .guards import BatchSizeHook, CheckClassesHook, NonFiniteHook
from .loading import ConvertCheckpointHook, read_run
from .loops import EpochBasedTrainLoop, IterBasedTrainLoop
from .optim import SwinOptimWrapperConstructor
from .runner import Runner
from .sharding import FSDPStrategy, ZeroStrategy

__all__ = ['BatchSizeHook', 'CheckClassesHook', 'CheckpointHook', 'ConvertCheckpointHook',
           'EpochBasedTrainLoop', 'FSDPStrategy', 'IterBasedTrainLoop', 'NonFiniteHook', 'Runner',
           'SwinOptimWrapperConstructor', 'ZeroStrategy', 'read_run']
