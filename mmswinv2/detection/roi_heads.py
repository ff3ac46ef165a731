"""RoI heads of cascades with one number of classes, masks averaged over the stages of HTC, RoI pooling in float32."""
from __future__ import annotations

import torch
from mmdet.models import roi_heads
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..core.checks import check_int
from ..registry import MODELS

Heads = dict | list[dict] | None  # configs: one for all stages, or one for each


class SharedNumClasses:
    """Gives ``num_classes`` to each box and mask head of a cascade; comes before mmdet's RoI head among the bases.

    Args:
        num_classes: Of each head, >= 1, in place of the number that all heads have, as in mmdet's own configs; None:
            as the heads say.
        bbox_head: As of mmdet's class.
        mask_head: As of mmdet's class.
        kwargs: As of mmdet's class.

    Raises:
        ValueError: if ``num_classes`` is no integer >= 1, or heads of one list differ and one says another number.
    """

    def __init__(self, *, num_classes: int | None = None, bbox_head: Heads = None, mask_head: Heads = None,
                 **kwargs) -> None:
        if num_classes is not None:
            num_classes = check_int('num_classes', num_classes, minimum=1, unit=' or None')
            bbox_head = with_classes('bbox_head', bbox_head, num_classes)
            mask_head = with_classes('mask_head', mask_head, num_classes)
        super().__init__(bbox_head=bbox_head, mask_head=mask_head, **kwargs)


def with_classes(name: str, heads: Heads, num_classes: int) -> Heads:
    """Configs of heads with their number of classes; ``ValueError`` if a list says several, and another one too."""
    if heads is None:
        return None
    if not isinstance(heads, list):
        return dict(heads, num_classes=num_classes)
    said = [head.get('num_classes') for head in heads]
    other = [stage for stage, number in enumerate(said) if number not in (None, num_classes)]
    if other and len(set(said)) > 1:
        raise ValueError(f'{name}.{other[0]}.num_classes must be left out or be {num_classes}, the num_classes of the '
                         f'RoI head, or be the same in all stages, got {said[other[0]]}')
    return [dict(head, num_classes=num_classes) for head in heads]


@MODELS.register_module()
class CascadeRoIHead(SharedNumClasses, roi_heads.CascadeRoIHead):
    """mmdet's ``CascadeRoIHead`` with one ``num_classes`` for all its box and mask heads."""


@MODELS.register_module()
class HybridTaskCascadeRoIHead(SharedNumClasses, roi_heads.HybridTaskCascadeRoIHead):
    """mmdet's ``HybridTaskCascadeRoIHead`` that at test averages the masks of all its stages.

    mmdet 3 uses the last stage alone; mmdet 2, with which the published numbers were made, took the mean. Also,
    ``mask_info_flow=False`` works at test. ``num_classes`` is that of all its box and mask heads; the other arguments
    are those of mmdet's class.

    Source:
        arXiv:1901.07518; mmdetection 2.28.2, ``mmdet/models/roi_heads/htc_roi_head.py``.
    """

    def _mask_forward(self, stage: int, x: tuple[Tensor, ...], rois: Tensor, semantic_feat: Tensor | None = None,
                      training: bool = True) -> dict:
        """Computes mask logits: of one stage for training, of all stages for testing.

        Args:
            stage: The stage, in training.
            x: Feature maps, each (B, C, H_i, W_i).
            rois: Shape (n, 5): image index, x1, y1, x2, y2 in pixels.
            semantic_feat: Features of the semantic branch, shape (B, C, H, W).
            training: Whether losses will be computed from the result.

        Returns:
            ``mask_preds``: in training, shape (n, classes, 2r, 2r); else a list of those, one per stage.
        """
        if training:
            return super()._mask_forward(stage, x, rois, semantic_feat, training)
        extractor = self.mask_roi_extractor[stage]
        feats = extractor(x[:extractor.num_inputs], rois)  # (n, C, r, r)
        if self.with_semantic and 'mask' in self.semantic_fusion:
            semantic = self.semantic_roi_extractor([semantic_feat], rois)
            if semantic.shape[-2:] != feats.shape[-2:]:
                semantic = adaptive_avg_pool2d(semantic, feats.shape[-2:])
            feats = feats + semantic
        mask_preds, last_feat = [], None
        for head in self.mask_head:
            preds, feat = head(feats, last_feat)
            mask_preds.append(preds)
            last_feat = feat if self.mask_info_flow else None
        return dict(mask_preds=mask_preds)


@MODELS.register_module()
class SingleRoIExtractor(roi_heads.SingleRoIExtractor):
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
