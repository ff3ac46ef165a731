"""Registered models that need MMEngine only."""
from ..hosts import is_installed, missing

if not is_installed('mmengine'):
    raise missing('mmengine', 'mmswinv2.models')

from .global_attention import GlobalAttention
from .swin_transformer_v2 import SwinTransformerV2, VideoSwinTransformerV2

__all__ = ['GlobalAttention', 'SwinTransformerV2', 'VideoSwinTransformerV2']
