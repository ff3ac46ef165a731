"""Images with label maps beside them, of a user's own, checked before they are used."""
from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from mmseg.datasets import BaseSegDataset

from ..inputs import SUFFIXES, image_files, raise_for, size_as_read, with_palette, without_annotations
from ..registry import DATASETS
from .labels import STORED, lost_values

LOOK = 20  # masks whose labels are read at once


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
    """Checks that masks are there, have the sizes of their images, and are not of 0 and 255 alone.

    Raises:
        ValueError: if not.
    """
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
    """The values of a mask, each once.

    Raises:
        ValueError: if it cannot be read.
    """
    from PIL import Image
    try:
        with Image.open(mask) as image:
            return np.unique(np.asarray(image))
    except OSError as e:
        raise ValueError(f'{mask} must be an image, got {type(e).__name__}: {e}') from e
