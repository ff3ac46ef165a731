"""Masks in little memory: pasted a few at a time, kept run-length encoded."""
from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np
import torch
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from pycocotools import mask as coco_mask
from torch import Tensor

PASTE_BYTES = 256 * 2**20  # of pasted probabilities at a time on a GPU


class RLEMasks(list):
    """Run-length encoded masks: a list of COCO's dicts that decodes to an array on demand.

    mmdet's metrics take the list; its visualizer calls :meth:`astype`.

    Args:
        masks: COCO's dicts, of one size.
        size: (H, W), needed for an empty list.
    """

    def __init__(self, masks: Iterable[dict] = (), *, size: tuple[int, int]) -> None:
        super().__init__(masks)
        self.size = size

    def __getitem__(self, index):
        """One mask, or those of a slice."""
        found = super().__getitem__(index)
        return RLEMasks(found, size=self.size) if isinstance(index, slice) else found

    def __add__(self, other: list) -> RLEMasks:
        """These and others."""
        return RLEMasks([*self, *other], size=self.size)

    def __reduce__(self) -> tuple:
        return partial(RLEMasks, size=self.size), (list(self),)

    def numpy(self) -> np.ndarray:
        """Decoded: uint8, shape (n, H, W)."""
        return np.stack([coco_mask.decode(rle) for rle in self]) if self else np.zeros((0, *self.size), dtype=np.uint8)

    def astype(self, dtype) -> np.ndarray:
        """Decoded, shape (n, H, W)."""
        return self.numpy().astype(dtype)


def paste_masks(probabilities: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float) -> RLEMasks:
    """Pastes masks into an image and encodes them, as many at a time as fit a fixed amount of memory.

    Args:
        probabilities: Shape (n, r, r), in [0, 1].
        boxes: Shape (n, 4): x1, y1, x2, y2 in pixels of the image.
        size: (H, W) of the image.
        threshold: Least probability of a pixel of the mask, >= 0.

    Returns:
        n masks of the image's size.

    Raises:
        ValueError: if ``threshold`` is negative (mmdet's way to ask for probabilities, which have no such encoding).

    Source:
        mmdetection 3.3.0, ``FCNMaskHead._predict_by_feat_single``.
    """
    if threshold < 0:
        raise ValueError(f'mask_thr_binary must be >= 0, got {threshold}')
    h, w = (int(n) for n in size)
    on_cpu = boxes.device.type == 'cpu'
    at_once = 1 if on_cpu else max(1, PASTE_BYTES // (4 * 4 * h * w))  # a grid of two, the result and its comparison
    masks = RLEMasks(size=(h, w))
    for i in range(0, len(boxes), at_once):
        pasted, where = _do_paste_mask(probabilities[i:i + at_once, None], boxes[i:i + at_once], h, w,
                                       skip_empty=on_cpu)
        image = torch.zeros(len(pasted), h, w, dtype=torch.bool)
        image[(slice(None), *where)] = (pasted >= threshold).cpu()
        masks += coco_mask.encode(np.asfortranarray(image.numpy().transpose(1, 2, 0).astype(np.uint8)))
    return masks
