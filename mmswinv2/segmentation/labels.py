"""A check of segmentation labels, so that a wrong value is an error that names the file and not a crash in the loss."""
from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform

from ..registry import TRANSFORMS


@TRANSFORMS.register_module()
class CheckLabels(BaseTransform):
    """Checks that labels are classes or ignored; comes right after ``LoadAnnotations``.

    Args:
        num_classes: Labels are 0 to ``num_classes`` - 1.
        ignore_index: The label of pixels that do not count.

    Raises:
        ValueError: if a label is another value; the message names the file and the values.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        if num_classes < 1:
            raise ValueError(f'num_classes must be >= 1, got {num_classes}')
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def transform(self, results: dict) -> dict:
        """Checks ``gt_seg_map`` and passes on what it got."""
        labels = results['gt_seg_map']
        found = np.flatnonzero(np.bincount(labels.ravel().astype(np.int64), minlength=1)) if labels.size else []
        wrong = [int(v) for v in found if v >= self.num_classes and v != self.ignore_index]
        if wrong:
            raise ValueError(f'labels of {results.get("seg_map_path")} must be 0 to {self.num_classes - 1} or '
                             f'{self.ignore_index} (ignored), as they are after reduce_zero_label='
                             f'{results.get("reduce_zero_label", False)}, got {wrong[:10]}')
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_classes={self.num_classes}, ignore_index={self.ignore_index})'
