"""Swin Transformer V2 in torch alone: the mathematics, usable without OpenMMLab."""
from . import flops, weights  # noqa: F401  (flops tells torch's counter of operations)
from .arch import ARCHS, Arch, get_arch
from .attention import BACKENDS, AttentionConfig, WindowAttention, window_attention
from .config import BackboneConfig, BlockConfig, VideoConfig
from .swin_transformer_v2 import Feature, SwinBlock, SwinStage, SwinTransformerV2
from .video import VideoSwinTransformerV2

__all__ = ['ARCHS', 'Arch', 'AttentionConfig', 'BACKENDS', 'BackboneConfig', 'BlockConfig', 'Feature', 'SwinBlock',
           'SwinStage', 'SwinTransformerV2', 'VideoConfig', 'VideoSwinTransformerV2', 'WindowAttention', 'get_arch',
           'window_attention']
