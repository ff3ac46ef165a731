"""HTC++: the detector, and its neck, an FPN behind a layer of global attention."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmdet.models.detectors import HybridTaskCascade as _HybridTaskCascade
from mmdet.models.necks import FPN
from mmengine.model import Sequential

from ..models import GlobalAttention
from ..registry import MODELS


@MODELS.register_module()
class GlobalAttentionFPN(Sequential):
    """A layer of global attention on the last feature map, then mmdet's ``FPN``.

    Args:
        in_channels: Channels of the backbone's maps.
        autocast_dtype: Mixed precision in the layer of global attention; see :class:`mmswinv2.models.GlobalAttention`.
        attention: Other options of that layer.
        options: As for mmdet's ``FPN``.

    Source:
        arXiv:2103.14030, appendix A2.2.
    """

    def __init__(self, in_channels: Sequence[int], *, autocast_dtype: str | None = None,
                 attention: Mapping | None = None, **options) -> None:
        super().__init__(GlobalAttention(in_channels[-1], autocast_dtype=autocast_dtype, **attention or {}),
                         FPN(in_channels=list(in_channels), **options))


@MODELS.register_module()
class HybridTaskCascade(_HybridTaskCascade):
    """mmdet's ``HybridTaskCascade`` whose :class:`GlobalAttentionFPN` computes in the precision of its backbone.

    So ``model.backbone.autocast_dtype`` is the one switch of mixed precision; one in ``neck`` goes before it.
    """

    def __init__(self, backbone: Mapping, neck: Mapping | None = None, **kwargs) -> None:
        if isinstance(neck, Mapping) and neck['type'] == 'mmswinv2.GlobalAttentionFPN':
            neck = {'autocast_dtype': backbone.get('autocast_dtype'), **neck}
        super().__init__(backbone=backbone, neck=neck, **kwargs)
