"""Registered models that need MMEngine only."""
from ..hosts import require

require('mmengine', 'mmswinv2.models')

from .global_attention import GlobalAttention  # noqa: E402
from .swin_transformer_v2 import SwinTransformerV2  # noqa: E402

__all__ = ['GlobalAttention', 'SwinTransformerV2']
