"""RoI pooling in float32, whatever the precision of the features."""
from __future__ import annotations

import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor as _SingleRoIExtractor
from torch import Tensor

from ..registry import MODELS


@MODELS.register_module()
class SingleRoIExtractor(_SingleRoIExtractor):
    """mmdet's ``SingleRoIExtractor`` with features and RoIs in float32 under mixed precision.

    mmdet casts RoIs to the dtype of the features: half precision rounds coordinates past 1024 px to whole pixels,
    bfloat16 past 128 px, and RoIAlign has no bfloat16 kernel. Arguments are those of mmdet's class.
    """

    def forward(self, feats: tuple[Tensor, ...], rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        """Pools features.

        Args:
            feats: Feature maps, each (B, C, H_i, W_i), any floating dtype.
            rois: Shape (n, 5): image index, x1, y1, x2, y2 in pixels, float32.
            roi_scale_factor: Scales RoIs about their centres.

        Returns:
            Shape (n, C, r, r), float32.
        """
        with torch.autocast(rois.device.type, enabled=False):
            return super().forward(tuple(f.float() for f in feats), rois.float(), roi_scale_factor)
