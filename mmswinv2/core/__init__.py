"""Swin Transformer V2 in torch alone: the mathematics, usable without OpenMMLab."""
from . import flops  # noqa: F401  (tells torch)
from .arch import ARCHS, Arch, get_arch
from .attention import BACKENDS, WindowAttention
from .swin_transformer_v2 import SwinBlock, SwinStage, SwinTransformerV2

__all__ = ['ARCHS', 'Arch', 'BACKENDS', 'SwinBlock', 'SwinStage', 'SwinTransformerV2', 'WindowAttention', 'get_arch']
