"""Checks segmentation labels: a wrong value is an error that names the file.

Without it, training would crash in the loss, and mmseg's ``IoUMetric`` silently leaves such values out. mmseg's
``LoadAnnotations`` takes labels modulo 256: what a file holds beside 0 to 255 cannot be seen in what was loaded.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mmcv.transforms import BaseTransform

from ..core.checks import check_int
from ..registry import TRANSFORMS

if TYPE_CHECKING:
    from PIL import Image

STORED = 'stored as whole numbers from 0 to 255 in 8 bits'


@TRANSFORMS.register_module()
class CheckLabels(BaseTransform):
    """Checks that labels are classes or ignored; comes right after ``LoadAnnotations``, in training and at test.

    An image without labels, as in mmseg's inferencer, passes. Files on a local disk are looked at themselves: labels
    that mmseg's loader took from values that 8 bits do not hold are an error.

    Args:
        num_classes: Labels are 0 to ``num_classes`` - 1; >= 1. A data set that says its own number, as
            ``mmswinv2.MaskImages`` does, is checked with that.
        ignore_index: The label of pixels that do not count, an integer.

    Raises:
        ValueError: if a label is another value, in the file or as it was loaded, with the file and the values in the
            message; if labels are colours or no numbers; if they are known but not loaded yet; or if an argument is no
            integer or out of range.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes = check_int('num_classes', num_classes, minimum=1)
        self.ignore_index = check_int('ignore_index', ignore_index)

    def transform(self, results: dict) -> dict:
        """Checks ``gt_seg_map``, whole numbers of shape (H, W) in any dtype, and returns ``results`` unchanged."""
        if 'gt_seg_map' not in results:
            if results.get('seg_map_path') is not None:
                raise ValueError('CheckLabels must come after LoadAnnotations in a pipeline, or be left out with it, '
                                 f'got labels that are not loaded: {results["seg_map_path"]}')
            return results
        labels = results['gt_seg_map']
        if not isinstance(labels, np.ndarray) or labels.dtype.kind not in 'buif':
            what = f'an array of {labels.dtype}' if isinstance(labels, np.ndarray) else repr(labels)
            raise ValueError(f'labels of {results.get("seg_map_path")} must be an array of numbers, got {what:.200}')
        if labels.ndim != 2:
            raise ValueError(f'labels of {results.get("seg_map_path")} must have one value per pixel, got an image of '
                             f'shape {labels.shape}')
        if labels.dtype == np.uint8 and (lost := lost_values(results.get('seg_map_path'))) and was_loaded(results):
            raise ValueError(f'labels of {results["seg_map_path"]} must be {STORED}, got {lost}')
        number = results.get('num_classes', self.num_classes)
        classes = (labels >= 0) & (labels < number)
        if labels.dtype.kind == 'f':
            classes &= labels == np.floor(labels)
        wrong = labels[~classes & (labels != self.ignore_index)]
        if wrong.size:
            raise ValueError(f'labels of {results.get("seg_map_path")} must be 0 to {number - 1} or '
                             f'{self.ignore_index} (ignored), as they are after reduce_zero_label='
                             f'{results.get("reduce_zero_label", False)}, got {np.unique(wrong)[:10].tolist()}')
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_classes={self.num_classes}, ignore_index={self.ignore_index})'


def label_image(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> Image.Image:
    """An image of 8 bits that holds labels and is shown in the colours of their classes.

    Args:
        labels: Shape (H, W), 0 to 255.
        palette: Red, green and blue of each class, 0 to 255.
    """
    from PIL import Image
    image = Image.fromarray(labels.astype(np.uint8))
    colours = np.zeros((256, 3), dtype=np.uint8)  # of fewer, Pillow would store fewer bits
    colours[:len(palette)] = palette
    image.putpalette(colours.tobytes())
    return image


def lost_values(path: str | Path | None) -> str:
    """Which values of a file of labels are read as others, in words; empty if none are, or it is no such file.

    mmseg's loader takes values beside 0 to 255, and fractions, modulo 256; readers multiply grey values of 2 and 4 bits
    by 85 and 17.
    """
    from PIL import Image
    try:
        with Image.open(path) as image:
            scale = next((scale for bits, scale in ((2, 85), (4, 17)) if f"'L;{bits}" in str(image.tile)), 1)
            if image.mode in ('1', 'L', 'P') and scale == 1:
                return ''
            values = np.asarray(image)
    except Exception:  # of no path, a path elsewhere than on a disk, or a file that another reader than Pillow loaded
        return ''
    if values.ndim != 2:
        return ''
    if scale > 1:
        kept, how = (values == 0) | (values == 255), f'{scale} times what is stored'
    else:
        kept, how = (values >= 0) & (values <= 255) & (values == np.floor(values)), 'read modulo 256'
    lost = np.unique(values[~kept])[:10]
    return f'{lost.tolist()}, {how}' if lost.size else ''


def was_loaded(results: dict) -> bool:
    """Whether the labels are those that mmseg's loader makes of their file; another loader knows what it does."""
    from mmseg.datasets.transforms import LoadAnnotations
    again = LoadAnnotations().transform({'reduce_zero_label': False, **results, 'seg_fields': []})['gt_seg_map']
    return np.array_equal(again, results['gt_seg_map'])
