"""What needs MMEngine's runner: its checkpoints, groups of parameters, counts of operations."""
from .batch_size import BatchSizeHook
from .checkpoint import allow_mmengine_checkpoints
from .checkpoint_hook import CheckpointHook
from .deepspeed import DeepSpeedStrategy
from .flops import register_flop_handles
from .loops import EpochBasedTrainLoop, IterBasedTrainLoop
from .nonfinite import NonFiniteHook
from .optim import SwinOptimWrapperConstructor
from .strategies import FSDPStrategy, ZeroStrategy

__all__ = ['BatchSizeHook', 'CheckpointHook', 'DeepSpeedStrategy', 'EpochBasedTrainLoop', 'FSDPStrategy',
           'IterBasedTrainLoop', 'NonFiniteHook', 'SwinOptimWrapperConstructor', 'ZeroStrategy',
           'allow_mmengine_checkpoints']

allow_mmengine_checkpoints()
register_flop_handles()
