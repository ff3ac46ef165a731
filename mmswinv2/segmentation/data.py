"""Images with label maps: a data set of a user's own, checked before it is used, and a check of labels in a pipeline.

Without it training would crash in the loss, and mmseg's ``IoUMetric`` silently leaves wrong values out. mmseg's
``LoadAnnotations`` takes labels modulo 256: what a file holds beside 0 to 255 cannot be seen in what was loaded.
"""
from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from ..core.checks import check_int
from ..inputs import SUFFIXES, image_files, raise_for, size_as_read, with_palette, without_annotations
from ..registry import DATASETS, TRANSFORMS

STORED = 'stored as whole numbers from 0 to 255 in 8 bits'
LOOK = 20  # masks whose labels are read at once


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
        path = results.get('seg_map_path')
        if 'gt_seg_map' not in results:
            if path is not None:
                raise ValueError('CheckLabels must come after LoadAnnotations in a pipeline, or be left out with it, '
                                 f'got labels that are not loaded: {path}')
            return results
        labels, name = results['gt_seg_map'], f'labels of {path}'
        if not isinstance(labels, np.ndarray) or labels.dtype.kind not in 'buif':
            what = f'an array of {labels.dtype}' if isinstance(labels, np.ndarray) else repr(labels)
            raise ValueError(f'{name} must be an array of numbers, got {what:.200}')
        if labels.ndim != 2:
            raise ValueError(f'{name} must have one value per pixel, got an image of shape {labels.shape}')
        if labels.dtype == np.uint8 and (lost := lost_values(path)) and was_loaded(results):
            raise ValueError(f'{name} must be {STORED}, got {lost}')
        number = results.get('num_classes', self.num_classes)
        classes = (labels >= 0) & (labels < number)
        if labels.dtype.kind == 'f':
            classes &= labels == np.floor(labels)
        wrong = labels[~classes & (labels != self.ignore_index)]
        if wrong.size:
            raise ValueError(f'{name} must be 0 to {number - 1} or {self.ignore_index} (ignored), as they are after '
                             f'reduce_zero_label={results.get("reduce_zero_label", False)}, got '
                             f'{np.unique(wrong)[:10].tolist()}')
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_classes={self.num_classes}, ignore_index={self.ignore_index})'


def label_image(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> Image.Image:
    """An image of 8 bits that holds labels and is shown in the colours of their classes.

    Args:
        labels: Shape (H, W), 0 to 255.
        palette: Red, green and blue of each class, 0 to 255.
    """
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
    again = LoadAnnotations().transform({'reduce_zero_label': False, **results, 'seg_fields': []})['gt_seg_map']
    return np.array_equal(again, results['gt_seg_map'])


@DATASETS.register_module()
class MaskImages(BaseSegDataset):
    """mmseg's ``BaseSegDataset`` for data of a user's own, on a local disk: any image with a mask of the same name.

    Images may have any of the usual suffixes, and lie in sub-folders and behind links; a mask is a file of one value
    per pixel, the class from 0, with ``seg_map_suffix``; 255 is ignored. ``mmswinv2.CheckLabels`` takes the number of
    classes from here. Without ``seg_map_path`` in ``data_prefix``, or with None, there are no masks, and the steps of
    the pipeline that want them are left out. Arguments are those of mmseg's class but for ``ann_file`` and
    ``img_suffix``; ``metainfo`` must have ``classes``, and may have their colours, ``palette``.

    Raises:
        ValueError: if ``classes`` is no list of different names; if there are no images, two of one name, images
            without a mask or with one of another size, or folders and links that lead nowhere; or if the first 20
            masks are of 0 and 255 alone, or one of them has values that 8 bits do not hold.
    """

    def __init__(self, *, metainfo: dict | None = None, data_prefix: Mapping[str, str | None] | None = None,
                 pipeline: Sequence[dict | Callable] = (), **kwargs) -> None:
        for name in ('ann_file', 'img_suffix'):
            if name in kwargs:
                raise ValueError(f'{name} must be left out: all images in data_prefix.img_path are used, got '
                                 f'{kwargs[name]!r}')
        metainfo = with_palette(metainfo)
        folders = {name: path for name, path in {'img_path': '', **(data_prefix or {})}.items() if path is not None}
        if 'seg_map_path' not in folders:
            pipeline = without_annotations(pipeline)
        super().__init__(metainfo=metainfo, data_prefix=folders, pipeline=pipeline, **kwargs)
        self.METAINFO = self.metainfo  # mmseg's tools take names of classes from here

    def load_data_list(self) -> list[dict]:
        """The images with their masks, in the order of their names."""
        folder, masks = self.data_prefix.get('img_path') or '', self.data_prefix.get('seg_map_path')
        found = defaultdict(list)
        images, lost = image_files(folder or '.')
        for path in images:
            found[path.relative_to(folder or '.').with_suffix('').as_posix()].append(str(path))
        if not found:
            raise ValueError(f'data_prefix.img_path must be a folder of images ({", ".join(SUFFIXES)}), got {folder}')
        raise_for({'folders must be readable and links must lead somewhere': list(map(str, lost)),
                   'names of images must differ in more than the suffix':
                   [' and '.join(paths) for paths in found.values() if len(paths) > 1]}, folder)
        data = [dict(img_path=path, label_map=self.label_map, reduce_zero_label=self.reduce_zero_label,
                     num_classes=len(self.metainfo['classes']), seg_fields=[]) for path, in found.values()]
        if masks is not None:
            for name, info in zip(found, data):
                info['seg_map_path'] = os.path.join(masks, name + self.seg_map_suffix)
            check_masks(data, masks)
        return data


def check_masks(data: list[dict], folder: str) -> None:
    """Checks that masks are there, have the sizes of their images, and are not of 0 and 255 alone."""
    pairs = [(info['img_path'], info['seg_map_path']) for info in data]
    raise_for({f'an image must have a mask of its name in {folder}':
               [f'{image} without {mask}' for image, mask in pairs if not os.path.isfile(mask)]},
              os.path.dirname(pairs[0][0]))
    sizes = [(mask, size_as_read(mask, turn=False), size_as_read(image)) for image, mask in pairs]
    raise_for({'a mask must have the size of its image, turned as its EXIF says':
               [f'{mask} is {found[0]} x {found[1]} px, not {wanted[0]} x {wanted[1]}'
                for mask, found, wanted in sizes if found != wanted]}, folder)
    raise_for({f'labels must be {STORED}':
               [f'{mask} has {lost}' for _, mask in pairs[:LOOK] if (lost := lost_values(mask))]}, folder)
    labels = np.unique(np.concatenate([values_of(mask) for _, mask in pairs[:LOOK]]))
    if labels.tolist() in ([0, 255], [255]):
        raise ValueError(f'{folder}: masks must have labels of classes, 0, 1 and so on; 255 is ignored, so that 0 and '
                         f'255 must be written as 0 and 1; got {labels.tolist()} in the first {len(pairs[:LOOK])}')


def values_of(mask: str) -> np.ndarray:
    """The values of a mask, each once; ``ValueError`` if it cannot be read."""
    try:
        with Image.open(mask) as image:
            return np.unique(np.asarray(image))
    except OSError as e:
        raise ValueError(f'{mask} must be an image, got {type(e).__name__}: {e}') from e
