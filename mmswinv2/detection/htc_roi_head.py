"""The RoI head of Hybrid Task Cascade, which at test averages masks over its stages."""
from __future__ import annotations

from mmdet.models.roi_heads import HybridTaskCascadeRoIHead as _HybridTaskCascadeRoIHead
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..registry import MODELS
from .cascade_heads import SharedNumClasses


@MODELS.register_module()
class HybridTaskCascadeRoIHead(SharedNumClasses, _HybridTaskCascadeRoIHead):
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
            if self.mask_info_flow:
                preds, last_feat = head(feats, last_feat)
            else:
                preds = head(feats, return_feat=False)
            mask_preds.append(preds)
        return dict(mask_preds=mask_preds)
