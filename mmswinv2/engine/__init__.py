"""What needs MMEngine's runner: reading its checkpoints, and groups of parameters for the optimizer."""
from .checkpoint import allow_mmengine_checkpoints
from .optim import SwinOptimWrapperConstructor

__all__ = ['SwinOptimWrapperConstructor', 'allow_mmengine_checkpoints']

allow_mmengine_checkpoints()
