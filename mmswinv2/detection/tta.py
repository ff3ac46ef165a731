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

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from mmcv.ops import batched_nms
from mmdet.models.layers import multiclass_nms
from mmdet.models.roi_heads import CascadeRoIHead, HybridTaskCascadeRoIHead, StandardRoIHead
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi, bbox_mapping, bbox_mapping_back, get_box_tensor
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..core.checks import is_list
from ..inputs import check_views
from ..registry import MODELS
from .masks import paste_masks
from .roi_heads import HybridTaskCascadeRoIHead as _OwnHead

FEATURES = ('keep', 'cpu', 'recompute')
FLIPS = {'horizontal': (-1,), 'vertical': (-2,), 'diagonal': (-1, -2)}  # axes of a mask
ANY_SIZE = (0., float('inf'))
TTA_KEYS = ('score_thr', 'nms', 'max_per_img', 'mask_thr_binary', 'rpn')


@dataclass
class View:
    """One view of an image: its relation to the original, and the detector's inputs.

    Args:
        data: Input of the data preprocessor, for a batch of one.
        sample: Output of the data preprocessor; its ``img_shape`` is (h, w) of the view in pixels.
        features: Feature maps, each (1, C, H_i, W_i), on the device that keeps them; None if they are recomputed.
        flip: ``'horizontal'``, ``'vertical'``, ``'diagonal'`` or None.
        sizes: (least, less than), of the objects that the view is used for, in pixels of the original image.
    """

    data: dict
    sample: DetDataSample
    features: tuple[Tensor, ...] | None
    flip: str | None
    sizes: tuple[float, float] = ANY_SIZE

    def to_original(self, boxes: Tensor) -> Tensor:
        """Maps boxes (n, 4k) of the view, in pixels, to the original image."""
        return bbox_mapping_back(boxes, *self._mapping())

    def from_original(self, boxes: Tensor) -> Tensor:
        """Maps boxes (n, 4) of the original image, in pixels, to the view."""
        return bbox_mapping(boxes, *self._mapping())

    def _mapping(self) -> tuple:
        return self.sample.img_shape, tuple(self.sample.scale_factor[:2]) * 2, self.flip is not None, self.flip


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
        self._set_sizes(views)

        cfg, sample = self.tta_cfg, views[0].sample
        boxes, scores = self._average_boxes(views, self._merge_proposals(views, proposals))
        found, labels = multiclass_nms(boxes, scores, cfg.score_thr, cfg.nms, cfg.max_per_img)
        result = InstanceData(bboxes=found[:, :4], scores=found[:, 4], labels=labels)
        if self.module.roi_head.with_mask:
            probabilities = self._average_masks(views, result)  # (n, r, r)
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
        """Proposals of all views, (n, 4) in the original image; those of a single view had their NMS."""
        boxes = torch.cat([view.to_original(get_box_tensor(p.bboxes).float()) for view, p in zip(views, proposals)])
        if len(views) == 1 or not len(boxes):
            return boxes
        scores = torch.cat([p.scores.float() for p in proposals])
        nms = self.rpn_cfg.get('nms', dict(type='nms', iou_threshold=.7))
        _, keep = batched_nms(boxes, scores, torch.zeros_like(scores, dtype=torch.int64), nms)
        return boxes[keep[:self.rpn_cfg.get('max_per_img', 1000)]]

    def _average_boxes(self, views: list[View], proposals: Tensor) -> list[Tensor]:
        """Runs the box heads on the same proposals (n, 4) in every view: mean boxes (n, 4 or 4 classes) and scores
        (n, classes+1).
        """
        head = self.module.roi_head
        if not len(proposals):
            return [proposals, proposals.new_zeros(0, _last(head.bbox_head).num_classes + 1)]

        def run(view: View, at: Tensor) -> tuple[Tensor, Tensor]:
            x = self._features(view)
            rois = InstanceData(bboxes=view.from_original(proposals[at]))
            found, = head.predict_bbox(x, [view.sample.metainfo], [rois], rcnn_test_cfg=None, rescale=False,
                                       **self._semantic(x))
            return view.to_original(found.bboxes.float()), found.scores.float()
        return _average(views, proposals, run)

    def _average_masks(self, views: list[View], result: InstanceData) -> Tensor:
        """Runs the mask heads on the detections in every view: mean probability of the detected class, (n, r, r)."""
        if not len(result):
            return result.bboxes.new_zeros(0, 1, 1)

        def run(view: View, at: Tensor) -> tuple[Tensor]:
            rois = bbox2roi([view.from_original(result.bboxes[at])])
            probabilities = self._mask_probabilities(self._features(view), rois, result.labels[at])
            return (probabilities.flip(FLIPS[view.flip]) if view.flip else probabilities,)
        return _average(views, result.bboxes, run)[0]

    def _mask_probabilities(self, x: tuple[Tensor, ...], rois: Tensor, labels: Tensor) -> Tensor:
        """Probability of a class in RoIs (n, 5) of a view: mean over stages, (n, r, r)."""
        head = self.module.roi_head
        if isinstance(head, HybridTaskCascadeRoIHead):
            logits = head._mask_forward(-1, x, rois, training=False, **self._semantic(x))['mask_preds']
        else:
            stages = [(i,) for i in range(head.num_stages)] if isinstance(head, CascadeRoIHead) else [()]
            logits = [head._mask_forward(*stage, x, rois)['mask_preds'] for stage in stages]
        channel = torch.zeros_like(labels) if _last(head.mask_head).class_agnostic else labels
        rows = torch.arange(len(labels), device=labels.device)
        return sum(stage[rows, channel].float().sigmoid() for stage in logits) / len(logits)

    def _semantic(self, x: tuple[Tensor, ...]) -> dict:
        """The argument that HTC's methods take for the features of the semantic branch."""
        head = self.module.roi_head
        if not isinstance(head, HybridTaskCascadeRoIHead):
            return {}
        return dict(semantic_feat=head.semantic_head(x)[1] if head.with_semantic else None)

    def _set_sizes(self, views: list[View]) -> None:
        """Gives each view the range of its object sizes."""
        if self.size_ranges is None:
            return
        times, rest = divmod(len(views), len(self.size_ranges))
        if rest or not times:
            raise ValueError(f'size_ranges must have a range for each view or scale, got {len(self.size_ranges)} for '
                             f'{len(views)} views')
        for i, sizes in enumerate(self.size_ranges):
            of_scale = views[i * times:(i + 1) * times]
            scales = {tuple(view.sample.scale_factor) for view in of_scale}
            if len(scales) > 1:
                raise ValueError('size_ranges must be one per view where views of a scale do not follow each other, '
                                 f'got {len(self.size_ranges)} for {len(views)} views, of which {times} in a row have '
                                 f'the scales {sorted(scales)}')
            for view in of_scale:
                view.sizes = sizes


def _average(views: list[View], boxes: Tensor, run: Callable[[View, Tensor], tuple[Tensor, ...]]) -> list[Tensor]:
    """The means of what ``run`` says of ``boxes[at]``, a row per box, over the views that are used for each box."""
    used = used_views(views, boxes)
    totals: list[Tensor] = []
    for view, use in zip(views, used):
        at = use.nonzero()[:, 0]
        if len(at):
            values = run(view, at)
            totals = totals or [value.new_zeros(len(boxes), *value.shape[1:]) for value in values]
            for total, value in zip(totals, values):
                total.index_add_(0, at, value)
    return [total / used.sum(0).view(-1, *[1] * (total.ndim - 1)) for total in totals]


def used_views(views: list[View], boxes: Tensor) -> Tensor:
    """Which views are used for which boxes (n, 4) of the original image: bool, (views, n); all, if none of them is."""
    size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).sqrt()
    used = torch.stack([(size >= view.sizes[0]) & (size < view.sizes[1]) for view in views])
    return used | ~used.any(0)


def _last(heads: nn.Module) -> nn.Module:
    """The head of the last stage, or the only one."""
    return heads[-1] if isinstance(heads, nn.ModuleList) else heads


def _check_head(head) -> None:
    """Refuses RoI heads that override prediction methods, which would silently not be called here."""
    known = (StandardRoIHead, CascadeRoIHead, HybridTaskCascadeRoIHead, _OwnHead)
    for name in ('predict', 'predict_bbox', 'predict_mask'):
        if getattr(type(head), name, None) not in [getattr(c, name) for c in known]:
            raise ValueError('module.roi_head must be a StandardRoIHead, CascadeRoIHead or HybridTaskCascadeRoIHead '
                             f'with the {name} of that class, got {type(head).__name__}')


def _check_ranges(values: Sequence[Sequence[float | None]]) -> list[tuple[float, float]]:
    if not is_list(values) or len(values) == 0:
        raise ValueError(f'size_ranges must be a list of >= 1 ranges, or None, got {values!r}')
    ranges = []
    for value in values:
        try:
            least, limit = value
            least, limit = 0. if least is None else float(least), float('inf') if limit is None else float(limit)
        except (TypeError, ValueError):
            raise ValueError(f'size_ranges must be pairs (least, less than) of pixels or None, got {value!r}') from None
        if not 0 <= least < limit:
            raise ValueError(f'size_ranges must be pairs with 0 <= least < limit, got {value!r}')
        ranges.append((least, limit))
    return ranges


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
