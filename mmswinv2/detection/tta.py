"""Test-time augmentation of two-stage detectors, boxes and masks: views share proposals and are averaged.

1. Each view (a scale, a flip) gives features and proposals. Proposals of all views are mapped to the original image and
   merged by NMS.
2. The box heads run on the merged proposals in every view. Boxes and scores are averaged over views; one NMS follows.
3. The mask heads run on the detections in every view. Probabilities, flipped back, are averaged over views and stages,
   pasted once at the size of the original image, and encoded at once.

Averages are running sums: only the features of a view are kept.

Source:
    mmdetection 2.28.2, ``aug_test`` of its two-stage detectors, with which the published multi-scale numbers were made.
    mmdetection 3 has test-time augmentation for boxes alone, by NMS over the results of views.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmcv.ops import batched_nms
from mmdet.models.layers import multiclass_nms
from mmdet.models.roi_heads import CascadeRoIHead, HybridTaskCascadeRoIHead, StandardRoIHead
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi, bbox_flip, get_box_tensor
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

from ..core.checks import is_list
from ..inputs import check_views
from ..registry import MODELS
from .htc_roi_head import HybridTaskCascadeRoIHead as _OwnHead
from .masks import paste_masks

FEATURES = ('keep', 'cpu', 'recompute')
FLIPS = {'horizontal': (-1,), 'vertical': (-2,), 'diagonal': (-1, -2)}  # axes of a mask
TTA_KEYS = ('score_thr', 'nms', 'max_per_img', 'mask_thr_binary', 'rpn')


@dataclass
class View:
    """One view of an image: its relation to the original, and the detector's inputs.

    Args:
        data: Input of the data preprocessor, for a batch of one.
        sample: Output of the data preprocessor; its ``img_shape`` is (h, w) of the view in pixels.
        features: Feature maps, each (1, C, H_i, W_i), on the device that keeps them; None if they are recomputed.
        flip: ``'horizontal'``, ``'vertical'``, ``'diagonal'`` or None.
    """

    data: dict
    sample: DetDataSample
    features: tuple[Tensor, ...] | None
    flip: str | None

    def to_original(self, boxes: Tensor) -> Tensor:
        """Maps boxes (n, 4k) of the view, in pixels, to the original image."""
        if self.flip:
            boxes = bbox_flip(boxes, self.sample.img_shape, self.flip)
        return boxes / self._scale(boxes)

    def from_original(self, boxes: Tensor) -> Tensor:
        """Maps boxes (n, 4k) of the original image, in pixels, to the view."""
        boxes = boxes * self._scale(boxes)
        return bbox_flip(boxes, self.sample.img_shape, self.flip) if self.flip else boxes

    def _scale(self, boxes: Tensor) -> Tensor:
        w, h = self.sample.scale_factor[:2]
        return boxes.new_tensor([w, h]).repeat(boxes.shape[-1] // 2)


@MODELS.register_module()
class InstanceSegTTAModel(DetTTAModel):
    """Averages views of an image in a two-stage detector: boxes, and masks where the detector has them.

    For HTC, Cascade R-CNN, Mask R-CNN and Faster R-CNN, with or without masks. A single-stage detector falls back to
    mmdet's ``DetTTAModel``: NMS over the boxes of all views. ``mim test mmdet CONFIG --tta`` uses it where the config
    has ``tta_model = dict(type='mmswinv2.InstanceSegTTAModel')`` and a ``tta_pipeline``.

    Args:
        tta_cfg: May have ``score_thr``, ``nms``, ``max_per_img``, ``mask_thr_binary`` and ``rpn`` (a dict with
            ``nms`` and ``max_per_img``, for merging proposals). They override the detector's ``test_cfg``.
        size_ranges: Sizes of the objects that a view is used for, as (least, less than), for each view, or for each
            scale where the views of a scale follow each other. A size is the square root of the area in pixels of the
            original image; None is no limit. Objects in no range are averaged over all views.
        features: ``'keep'`` on the device, ``'cpu'``, or ``'recompute'`` when needed again (the backbone then runs up
            to three times per view, and memory is that of one view).
        module: The detector, or its config.
        data_preprocessor: The detector's, if it is not in its config.

    Raises:
        ValueError: if an argument is out of range or unknown, or the detector's RoI head overrides a prediction method.

    Source:
        mmdetection 2.28.2, ``aug_test`` of ``mmdet/models/roi_heads/htc_roi_head.py`` and ``merge_augs.py``;
        ranges of sizes per scale as in the public HTC++ configurations of ViT-Adapter.
    """

    def __init__(self, tta_cfg: dict | None = None, *, size_ranges: Sequence[Sequence[float | None]] | None = None,
                 features: str = 'keep', **kwargs) -> None:
        super().__init__(tta_cfg=None, **kwargs)
        if features not in FEATURES:
            raise ValueError(f'features must be one of {", ".join(FEATURES)}, got {features!r}')
        unknown = sorted(set(tta_cfg or {}) - set(TTA_KEYS))
        if unknown:
            raise ValueError(f'tta_cfg must have no key but {", ".join(TTA_KEYS)}, got {unknown}')
        self.features = features
        self.size_ranges = None if size_ranges is None else _check_ranges(size_ranges)
        self.two_stage = hasattr(self.module, 'roi_head') and hasattr(self.module, 'extract_feat')
        test_cfg = self.module.test_cfg or {}
        if self.two_stage:
            _check_head(self.module.roi_head)
            self.tta_cfg = ConfigDict({**test_cfg.rcnn, **(tta_cfg or {})})
            self.rpn_cfg = ConfigDict({**(test_cfg.get('rpn') or {}), **self.tta_cfg.get('rpn', {})})
        else:
            if getattr(self.module, 'mask_head', None) is not None:
                raise ValueError('module must be a two-stage detector for masks to be averaged, got '
                                 f'{type(self.module).__name__}')
            self.tta_cfg = ConfigDict({k: v for k, v in {**test_cfg, **(tta_cfg or {})}.items() if k in TTA_KEYS})
            if 'nms' not in self.tta_cfg:
                raise ValueError(f'tta_cfg must have nms for {type(self.module).__name__}, which has none in its '
                                 f'test_cfg, got {tta_cfg!r}')
            self.tta_cfg.setdefault('max_per_img', 100)

    @torch.no_grad()
    def test_step(self, data: dict) -> list[DetDataSample]:
        """Detects in images from their views.

        Args:
            data: ``inputs`` and ``data_samples``, each a list over views of lists over images, as ``TestTimeAug`` and
                ``pseudo_collate`` make them. Images are (3, h, w), uint8.

        Returns:
            A sample per image, with ``pred_instances`` in pixels of the original image: ``bboxes`` (n, 4), ``scores``
            (n), ``labels`` (n), and ``masks``, a list of n run-length encoded masks.

        Raises:
            ValueError: if there are no views, samples are missing, or a view's meta information does not say how it
                came from the original image.
        """
        inputs, samples = check_views(data)
        if not self.two_stage:
            return super().test_step(data)
        return [self._detect([dict(inputs=[view[i]], data_samples=[s[i]]) for view, s in zip(inputs, samples)])
                for i in range(len(inputs[0]))]

    def _detect(self, data: list[dict]) -> DetDataSample:
        """Detects in one image, given its views."""
        views, proposals = [], []
        for view in data:
            x, sample = self._extract(view)
            found = sample.get('proposals', None)
            if found is None:
                found = self.module.rpn_head.predict(x, [sample], rescale=False)[0]
            if self.features == 'recompute':
                x = None
            elif self.features == 'cpu':
                x = tuple(f.cpu() for f in x)
            views.append(View(view, sample, x, _flip(sample)))
            proposals.append(found)
        _check_views(views)
        ranges = self._ranges(views)

        sample = views[0].sample
        boxes = self._merge_proposals(views, proposals)  # (n, 4)
        boxes, scores = self._average_boxes(views, boxes, ranges)
        cfg = self.tta_cfg
        found, labels = multiclass_nms(boxes, scores, cfg.score_thr, cfg.nms, cfg.max_per_img)
        if len(views) == 1:  # boxes are still in the view
            found[:, :4] = views[0].to_original(found[:, :4])
        result = InstanceData(bboxes=found[:, :4], scores=found[:, 4], labels=labels)
        if self.module.roi_head.with_mask:
            probabilities = self._average_masks(views, result, ranges)  # (n, r, r)
            result.masks = paste_masks(probabilities, result.bboxes, sample.ori_shape[:2], cfg.mask_thr_binary)
        sample.pred_instances = result
        return sample

    def _extract(self, data: dict) -> tuple[tuple[Tensor, ...], DetDataSample]:
        """Feature maps of a view, and its sample."""
        data = self.module.data_preprocessor(data, False)
        return self.module.extract_feat(data['inputs']), data['data_samples'][0]

    def _features(self, view: View) -> tuple[Tensor, ...]:
        if view.features is None:
            return self._extract(view.data)[0]
        device = next(self.module.parameters()).device
        return tuple(f.to(device) for f in view.features)

    def _merge_proposals(self, views: list[View], proposals: list[InstanceData]) -> Tensor:
        """Proposals of all views (n, 4), in the original image; those of a single view stay as they are."""
        boxes = [get_box_tensor(p.bboxes).float() for p in proposals]
        if len(views) == 1:
            return boxes[0]
        boxes = torch.cat([view.to_original(b) for view, b in zip(views, boxes)])
        scores = torch.cat([p.scores.float() for p in proposals])
        if not len(boxes):
            return boxes
        nms = self.rpn_cfg.get('nms', dict(type='nms', iou_threshold=.7))
        _, keep = batched_nms(boxes, scores, torch.zeros_like(scores, dtype=torch.int64), nms)
        return boxes[keep[:self.rpn_cfg.get('max_per_img', 1000)]]

    def _average_boxes(self, views: list[View], proposals: Tensor,
                       ranges: list[tuple[float, float]] | None) -> tuple[Tensor, Tensor]:
        """Runs the box heads on the same proposals (n, 4) in every view.

        Returns:
            Averages of (boxes (n, 4 or 4 classes), scores (n, classes+1)).
        """
        head = self.module.roi_head
        last = head.bbox_head[-1] if isinstance(head, CascadeRoIHead) else head.bbox_head
        if not len(proposals):
            return proposals, proposals.new_zeros(0, last.num_classes + 1)
        used = self._used(views, proposals, ranges)  # (views, n)
        boxes = scores = None
        for view, use in zip(views, used):
            at = use.nonzero()[:, 0]
            if not len(at):
                continue
            x = self._features(view)
            rois = proposals[at] if len(views) == 1 else view.from_original(proposals[at])
            result, = head.predict_bbox(x, [view.sample.metainfo], [InstanceData(bboxes=rois)], rcnn_test_cfg=None,
                                        rescale=False, **self._semantic(x))
            mapped = result.bboxes.float()
            if len(views) > 1:
                mapped = view.to_original(mapped)
            if boxes is None:
                boxes = mapped.new_zeros(len(proposals), mapped.shape[1])
                scores = mapped.new_zeros(len(proposals), result.scores.shape[1])
            boxes.index_add_(0, at, mapped)
            scores.index_add_(0, at, result.scores.float())
        count = used.sum(0)[:, None]
        return boxes / count, scores / count

    def _average_masks(self, views: list[View], result: InstanceData,
                       ranges: list[tuple[float, float]] | None) -> Tensor:
        """Runs the mask heads on the detections in every view: mean probability of the detected class, (n, r, r)."""
        total = result.bboxes.new_zeros(len(result), 1, 1)
        if not len(result):
            return total
        used = self._used(views, result.bboxes, ranges)
        for view, use in zip(views, used):
            at = use.nonzero()[:, 0]
            if not len(at):
                continue
            x = self._features(view)
            rois = bbox2roi([view.from_original(result.bboxes[at])])
            probabilities = self._mask_probabilities(x, rois, result.labels[at])
            if view.flip:
                probabilities = probabilities.flip(FLIPS[view.flip])
            if total.shape[1:] != probabilities.shape[1:]:
                total = total.new_zeros(len(result), *probabilities.shape[1:])
            total.index_add_(0, at, probabilities)
        return total / used.sum(0)[:, None, None]

    def _mask_probabilities(self, x: tuple[Tensor, ...], rois: Tensor, labels: Tensor) -> Tensor:
        """Probability of a class in RoIs (n, 5) of a view: mean over stages, (n, r, r)."""
        head = self.module.roi_head
        if isinstance(head, HybridTaskCascadeRoIHead):
            logits = head._mask_forward(-1, x, rois, training=False, **self._semantic(x))['mask_preds']
            last = head.mask_head[-1]
        elif isinstance(head, CascadeRoIHead):
            logits = [head._mask_forward(stage, x, rois)['mask_preds'] for stage in range(head.num_stages)]
            last = head.mask_head[-1]
        else:
            logits = [head._mask_forward(x, rois)['mask_preds']]
            last = head.mask_head
        channel = torch.zeros_like(labels) if last.class_agnostic else labels
        rows = torch.arange(len(labels), device=labels.device)
        return sum(stage[rows, channel].float().sigmoid() for stage in logits) / len(logits)

    def _semantic(self, x: tuple[Tensor, ...]) -> dict:
        """The argument that HTC's methods take for the features of the semantic branch."""
        head = self.module.roi_head
        if not isinstance(head, HybridTaskCascadeRoIHead):
            return {}
        return dict(semantic_feat=head.semantic_head(x)[1] if head.with_semantic else None)

    def _ranges(self, views: list[View]) -> list[tuple[float, float]] | None:
        """The range of object sizes of each view."""
        if self.size_ranges is None:
            return None
        times, rest = divmod(len(views), len(self.size_ranges))
        if rest or not times:
            raise ValueError(f'size_ranges must have a range for each view or scale, got {len(self.size_ranges)} for '
                             f'{len(views)} views')
        for i in range(0, len(views), times):
            scales = {tuple(view.sample.scale_factor) for view in views[i:i + times]}
            if len(scales) > 1:
                raise ValueError('size_ranges must be one per view where views of a scale do not follow each other, '
                                 f'got {len(self.size_ranges)} for {len(views)} views, of which {times} in a row have '
                                 f'the scales {sorted(scales)}')
        return [r for r in self.size_ranges for _ in range(times)]

    @staticmethod
    def _used(views: list[View], boxes: Tensor, ranges: list[tuple[float, float]] | None) -> Tensor:
        """Which views are used for which boxes (n, 4): bool, (views, n)."""
        if ranges is None:
            return torch.ones(len(views), len(boxes), dtype=torch.bool, device=boxes.device)
        size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).sqrt()
        used = torch.stack([(size >= least) & (size < limit) for least, limit in ranges])
        return used | ~used.any(0)


def _check_head(head) -> None:
    """Refuses RoI heads that override prediction methods, which would silently not be called here."""
    known = (StandardRoIHead, CascadeRoIHead, HybridTaskCascadeRoIHead, _OwnHead)
    for name in ('predict', 'predict_bbox', 'predict_mask'):
        if getattr(type(head), name, None) not in [getattr(c, name) for c in known]:
            raise ValueError('module.roi_head must be a StandardRoIHead, CascadeRoIHead or HybridTaskCascadeRoIHead '
                             f'with the {name} of that class, got {type(head).__name__}')


def _check_ranges(values: Sequence) -> list[tuple[float, float]]:
    if not is_list(values) or len(values) == 0:
        raise ValueError(f'size_ranges must be a list of >= 1 ranges, or None, got {values!r}')
    return [_check_range(value) for value in values]


def _check_range(value: Sequence[float | None]) -> tuple[float, float]:
    try:
        least, limit = value
        least, limit = 0. if least is None else float(least), float('inf') if limit is None else float(limit)
    except (TypeError, ValueError):
        raise ValueError(f'size_ranges must be pairs (least, less than) of pixels or None, got {value!r}') from None
    if not 0 <= least < limit:
        raise ValueError(f'size_ranges must be pairs with 0 <= least < limit, got {value!r}')
    return least, limit


def _flip(sample: DetDataSample) -> str | None:
    """How a view was flipped."""
    if not sample.get('flip', False):
        return None
    direction = sample.get('flip_direction', None)
    if direction not in FLIPS:
        raise ValueError('tta_pipeline must list flip_direction in the meta_keys of PackDetInputs and flip '
                         f'{", ".join(FLIPS)}, got flip_direction={direction!r}')
    return direction


def _check_views(views: list[View]) -> None:
    """Checks that views say how they were made from the original image, and that this was only a resize and a flip."""
    for view in views:
        sample = view.sample
        for key in ('ori_shape', 'img_shape', 'scale_factor'):
            if sample.get(key, None) is None:
                raise ValueError(f'tta_pipeline must resize, and list {key} in the meta_keys of PackDetInputs; got the '
                                 f'keys {sorted(sample.metainfo_keys())}')
        size = tuple(round(n * s) for n, s in zip(sample.ori_shape[:2], sample.scale_factor[1::-1]))
        if size != tuple(sample.img_shape[:2]):
            raise ValueError('tta_pipeline must resize and flip alone (padding is for the data preprocessor); an '
                             f'image of {sample.ori_shape[:2]} scaled by {tuple(sample.scale_factor)} (w, h) should be '
                             f'{size}, got {tuple(sample.img_shape[:2])}')
    unknown = [view.sample.img_shape for view in views if 'flip' not in view.sample]
    if len(set(unknown)) < len(unknown):
        raise ValueError('tta_pipeline must list flip and flip_direction in the meta_keys of PackDetInputs where views '
                         f'have the same size, got {unknown} without')
