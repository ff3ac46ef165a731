"""Test-time augmentation of segmenters that holds one view at a time.

The probabilities of each view are added to a sum at the size of the original image. Beside its own logits a view needs
one strip of rows. mmseg's ``SegTTAModel`` keeps the logits of all views at the size of the original image.

Legend: C classes, (H, W) the original image, (h, w) a view, in pixels.
"""
from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.models.segmentors.seg_tta import SegTTAModel
from mmseg.structures import SegDataSample
from torch import Tensor

from ..inputs import check_views
from ..registry import MODELS

STRIP_BYTES = 64 * 2**20  # of a strip of resized logits
FLIPS = {'horizontal': -1, 'vertical': -2}


@MODELS.register_module()
class StreamingSegTTAModel(SegTTAModel):
    """Averages the probabilities of an image's views, with the memory of one view whatever their number.

    Equals mmseg's ``SegTTAModel``, except for models with one output channel, where mmseg applies the sigmoid twice.
    Works with whole and sliding inference. ``mim test mmseg CONFIG --checkpoint FILE --tta`` uses it where the config
    has ``tta_model = dict(type='mmswinv2.StreamingSegTTAModel')`` and a ``tta_pipeline``.

    Args:
        keep_probabilities: Whether samples get the mean probabilities as ``seg_logits``, (C, H, W), float32.
        module: The segmenter, or its config.
        data_preprocessor: The segmenter's, if it is not in its config.

    Source:
        mmsegmentation 1.2.2, ``SegTTAModel`` and ``BaseSegmentor.postprocess_result``.
    """

    def __init__(self, *, keep_probabilities: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.keep_probabilities = keep_probabilities

    @torch.no_grad()
    def test_step(self, data: dict) -> list[SegDataSample]:
        """Segments images from their views.

        Args:
            data: ``inputs`` and ``data_samples``, each a list over views of lists over images, as ``TestTimeAug`` and
                ``pseudo_collate`` make them. Images are (3, h, w), uint8.

        Returns:
            The first view's sample of each image, with ``pred_sem_seg``, (1, H, W), int64.

        Raises:
            ValueError: if there are no views, samples are missing, or a view's meta information does not say how it
                came from the original image.
        """
        all_inputs, all_samples = check_views(data)
        results: list[SegDataSample] = []
        totals: list[Tensor] = []
        for inputs, samples in zip(all_inputs, all_samples):
            batch = self.module.data_preprocessor(dict(inputs=inputs, data_samples=samples), False)
            logits = self.module.inference(batch['inputs'], [s.metainfo for s in batch['data_samples']])
            if not results:
                results = batch['data_samples']
                totals = [logits.new_zeros(logits.shape[1], *s.ori_shape[:2], dtype=torch.float32) for s in results]
            for total, sample, view in zip(totals, batch['data_samples'], logits):
                self._add(total, view, sample)
            del logits
        for total, sample in zip(totals, results):
            total /= len(all_inputs)
            sample.set_data(dict(pred_sem_seg=PixelData(data=self._decide(total))))
            if self.keep_probabilities:
                sample.set_data(dict(seg_logits=PixelData(data=total)))
        return results

    def _add(self, total: Tensor, logits: Tensor, sample: SegDataSample) -> None:
        """Adds a view's probabilities, logits (C, h, w), to the sum (C, H, W), in place."""
        left, right, top, bottom = sample.get('img_padding_size', sample.get('padding_size', [0] * 4))
        logits = logits[:, top:logits.shape[1] - bottom, left:logits.shape[2] - right]
        if sample.get('flip', False):
            direction = sample.get('flip_direction', None)
            if direction not in FLIPS:
                raise ValueError('tta_pipeline must list flip_direction in the meta_keys of PackSegInputs and flip '
                                 f'{" or ".join(FLIPS)}, got flip_direction={direction!r}')
            logits = logits.flip(FLIPS[direction])
        size = tuple(sample.ori_shape[:2])
        if size != tuple(total.shape[1:]):
            raise ValueError(f'ori_shape must be the same in all views, got {size} and {tuple(total.shape[1:])}')
        for rows, strip in resized_strips(logits, size, align_corners=self.module.align_corners):
            total[:, rows] += strip.sigmoid() if len(strip) == 1 else strip.softmax(0)

    def _decide(self, probabilities: Tensor) -> Tensor:
        """The class of each pixel, (1, H, W), int64. Strip by strip: int64 indices are twice as large as a map."""
        if len(probabilities) == 1:
            return (probabilities > self.module.decode_head.threshold).long()
        _, h, w = probabilities.shape
        out = torch.empty(1, h, w, dtype=torch.int64, device=probabilities.device)
        for rows in _strips(probabilities.shape):
            torch.argmax(probabilities[:, rows], dim=0, out=out[0, rows])
        return out


def _strips(shape: tuple[int, int, int]) -> Iterator[slice]:
    c, h, w = shape
    at_once = max(1, STRIP_BYTES // (4 * c * w))
    return (slice(i, min(i + at_once, h)) for i in range(0, h, at_once))


def resized_strips(logits: Tensor, size: tuple[int, int], *, align_corners: bool) -> Iterator[tuple[slice, Tensor]]:
    """Resizes a map like ``F.interpolate(mode='bilinear')``, some rows at a time.

    Args:
        logits: Shape (C, h, w).
        size: (H, W).
        align_corners: As for ``F.interpolate``.

    Yields:
        (which rows of the result, their values (C, rows, W), float32).
    """
    c, h, w = logits.shape
    for rows in _strips((c, *size)):
        if (h, w) == tuple(size):
            yield rows, logits[:, rows].float()
            continue
        at = torch.arange(rows.start, rows.stop, device=logits.device, dtype=torch.float32)
        if align_corners:
            at = at * ((h - 1) / (size[0] - 1) if size[0] > 1 else 0.)
        else:
            at = ((at + .5) * (h / size[0]) - .5).clamp_(min=0)
        first = at.floor().long().clamp_(max=h - 1)
        weight = (at - first)[:, None]
        strip = torch.lerp(logits[:, first].float(), logits[:, (first + 1).clamp_(max=h - 1)].float(), weight)
        yield rows, F.interpolate(strip[None], (strip.shape[1], size[1]), mode='bilinear',
                                  align_corners=align_corners)[0]
