"""Videos by a list whose errors name the line or the file, and steps of a pipeline that mmaction2 lacks."""
from __future__ import annotations

import os
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from mmaction.datasets import VideoDataset
from mmcv.transforms import BaseTransform
from mmengine.fileio import list_from_file

from ..core.checks import check_int, first, is_int, is_list
from ..registry import DATASETS, TRANSFORMS


@DATASETS.register_module()
class VideoFiles(VideoDataset):
    """mmaction2's ``VideoDataset`` whose errors name the line of the list, or the video.

    Arguments are those of mmaction2's class. A line is ``NAME LABEL``, with ``delimiter`` between them, or a name.

    Raises:
        ValueError: if a line is something else, as one with a space in a name is; and from an item, if its video is
            empty, cut, or fails in the pipeline. Decoders raise without a name, end the process, or repeat frames.
    """

    def load_data_list(self) -> list[dict]:
        """The videos with their labels, as mmaction2 reads them."""
        lines = list_from_file(self.ann_file)
        wrong = [f'line {i} has {line!r}' for i, line in enumerate(lines, 1) if not self._is_item(line)]
        if wrong:
            raise ValueError(f'{self.ann_file}: lines must be a name and a label with {self.delimiter!r} between them '
                             f'alone (delimiter=... for another character, where names have this one), got '
                             f'{len(wrong)} that are not: {first(wrong)}')
        return super().load_data_list()

    def _is_item(self, line: str) -> bool:
        name, *labels = line.strip().split(self.delimiter)
        return bool(name) and (self.multi_class or len(labels) < 2) and all(
            label.strip().removeprefix('-').isdecimal() for label in labels)

    def prepare_data(self, idx: int):
        """An item after the pipeline."""
        path = self.get_data_info(idx)['filename']
        try:
            check_whole(path)
            return super().prepare_data(idx)
        except Exception as e:  # what decoders raise is as various as what is wrong with videos
            raise ValueError(f'{path} must be a video that can be read whole, got {type(e).__name__}: '
                             f'{" ".join(str(e).split())}') from e


def check_whole(path: str) -> None:
    """Checks that a video on a local disk is as long as it says, which AVI, MP4 and Matroska (WebM) do.

    Raises:
        EOFError: if it is shorter, or empty.
    """
    if not os.path.isfile(path):
        return
    size, end = os.path.getsize(path), 0
    with open(path, 'rb') as file:
        head = file.read(8)
        if head[:4] == b'RIFF':
            end = 8 + int.from_bytes(head[4:8], 'little')
        elif head[:4] == b'\x1aE\xdf\xa3':  # a header and a segment, each with its length
            file.seek(4)
            file.seek(_matroska_length(file) + 4, os.SEEK_CUR)
            end = _matroska_length(file) + file.tell()
        elif head[4:] == b'ftyp':  # one box after the other, each with its length
            while end < size:
                file.seek(end)
                length = int.from_bytes(file.read(4), 'big')
                if length == 1:
                    length = int.from_bytes(file.read(12)[4:], 'big')
                if length < 8:  # 0: to the end of the file
                    break
                end += length
    if end > size + 16 or not size:  # some that write AVI count their header, too
        raise EOFError(f'{size} of {end} bytes' if size else 'an empty file')


def _matroska_length(file: BinaryIO) -> int:
    """A length in as many bytes as its first says; 0 if all bits are set, as where a file is streamed."""
    first = file.read(1)[0]
    more = 8 - first.bit_length()
    length = (first - (128 >> more) << 8 * more) + int.from_bytes(file.read(more), 'big')
    return 0 if length == 2**(7 * (more + 1)) - 1 else length


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
