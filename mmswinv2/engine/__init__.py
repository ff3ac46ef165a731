"""What needs MMEngine's runner: its checkpoints, groups of parameters, counts of operations."""
from .checkpoint import allow_mmengine_checkpoints
from .deepspeed import DeepSpeedStrategy
from .flops import register_flop_handles
from .optim import SwinOptimWrapperConstructor

__all__ = ['DeepSpeedStrategy', 'SwinOptimWrapperConstructor', 'allow_mmengine_checkpoints']

allow_mmengine_checkpoints()
register_flop_handles()
