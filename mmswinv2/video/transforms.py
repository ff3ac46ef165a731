"""Pipeline steps that mmaction2 lacks."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform

from ..core.checks import check_int, is_int, is_list
from ..registry import TRANSFORMS


@TRANSFORMS.register_module()
class FiveCrop(BaseTransform):
    """Crops the four corners and the centre of every frame: five views of each clip.

    The crops of mmaction2's ``TenCrop`` without mirror images. Frames of all clips come once per crop, in the order in
    which ``FormatShape`` takes views. If a frame is as high or as wide as the crop, some corners coincide: resize
    frames to be larger.

    Required keys: ``imgs``. Modified: ``imgs``, ``img_shape``. Added: ``crop_bbox`` (frames, 4), x1, y1, x2, y2.

    Args:
        crop_size: Pixels: an int, or (w, h) as for mmaction2's crops.

    Raises:
        ValueError: if ``crop_size`` is neither, a frame is smaller, or there are boxes, which crops would move.

    Source:
        arXiv:2111.09883, table 5: "4 x 5" views; the paper does not say which crops.
    """

    def __init__(self, crop_size: int | Sequence[int]) -> None:
        size = (crop_size,) * 2 if is_int(crop_size) else crop_size
        if not is_list(size) or len(size) != 2:
            raise ValueError(f'crop_size must be an integer or (w, h) in pixels, got {crop_size!r}')
        self.width, self.height = (check_int('crop_size', n, minimum=1, unit=' px') for n in size)

    def transform(self, results: dict) -> dict:
        """Crops, in place."""
        if 'gt_bboxes' in results or 'proposals' in results:
            raise ValueError('FiveCrop must be used without boxes, got gt_bboxes or proposals')
        if results.get('lazy'):
            raise ValueError('FiveCrop must come after Fuse where transforms before it are lazy')
        frames = results['imgs']
        height, width = frames[0].shape[:2]
        right, low = width - self.width, height - self.height
        if min(right, low) < 0:
            raise ValueError(f'crop_size must be no larger than frames, {width} x {height} px, got {self.width} x '
                             f'{self.height}')
        corners = [(0, 0), (right, 0), (0, low), (right, low), (right // 2, low // 2)]
        results['imgs'] = [frame[y:y + self.height, x:x + self.width] for x, y in corners for frame in frames]
        results['crop_bbox'] = np.repeat(
            [[x, y, x + self.width, y + self.height] for x, y in corners], len(frames), axis=0)
        results['img_shape'] = (self.height, self.width)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(crop_size=({self.width}, {self.height}))'


@TRANSFORMS.register_module()
class ShuffleFrames(BaseTransform):
    """Takes the frames of each clip in a random order, by numpy's generator.

    It is the control that shows how much a model relies on their order. It comes after ``SampleFrames`` and before
    frames are decoded.

    Required keys: ``clip_len``. Modified: ``frame_inds``.
    """

    def transform(self, results: dict) -> dict:
        """Shuffles, in place."""
        clips = np.array(results['frame_inds']).reshape(-1, results['clip_len'])
        results['frame_inds'] = np.stack([np.random.permutation(clip) for clip in clips]).ravel()
        return results
