"""Checks segmentation labels: a wrong value is an error that names the file.

Without it, training would crash in the loss, and mmseg's ``IoUMetric`` silently leaves such values out.
"""
from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform

from ..core.checks import check_int
from ..registry import TRANSFORMS


@TRANSFORMS.register_module()
class CheckLabels(BaseTransform):
    """Checks that labels are classes or ignored; comes right after ``LoadAnnotations``, in training and at test.

    An image without labels, as in mmseg's inferencer, passes.

    Args:
        num_classes: Labels are 0 to ``num_classes`` - 1; >= 1. A data set that says its own number, as
            ``mmswinv2.MaskImages`` does, is checked with that.
        ignore_index: The label of pixels that do not count, an integer.

    Raises:
        ValueError: if a label is another value, with the file and the values in the message; if labels are colours or
            no numbers; if they are known but not loaded yet; or if an argument is no integer or out of range.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes = check_int('num_classes', num_classes, minimum=1)
        self.ignore_index = check_int('ignore_index', ignore_index)

    def transform(self, results: dict) -> dict:
        """Checks ``gt_seg_map``, whole numbers of shape (H, W) in any dtype, and returns ``results`` unchanged."""
        if 'gt_seg_map' not in results:
            if results.get('seg_map_path') is not None:
                raise ValueError('CheckLabels must come after LoadAnnotations in a pipeline, got labels that are not '
                                 f'loaded: {results["seg_map_path"]}')
            return results
        labels = results['gt_seg_map']
        if not isinstance(labels, np.ndarray) or labels.dtype.kind not in 'buif':
            what = f'an array of {labels.dtype}' if isinstance(labels, np.ndarray) else repr(labels)
            raise ValueError(f'labels of {results.get("seg_map_path")} must be an array of numbers, got {what:.200}')
        if labels.ndim != 2:
            raise ValueError(f'labels of {results.get("seg_map_path")} must have one value per pixel, got an image of '
                             f'shape {labels.shape}')
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
