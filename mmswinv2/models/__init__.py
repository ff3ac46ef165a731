"""Registered models that need MMEngine only."""
from .global_attention import GlobalAttention
from .swin_transformer_v2 import SwinTransformerV2

__all__ = ['GlobalAttention', 'SwinTransformerV2']
