"""A data set in COCO's format whose file is checked before it is used: what does not fit is an error that names it."""
from __future__ import annotations

import json
import os
from collections.abc import Sequence

from mmdet.datasets import CocoDataset

from ..core.checks import first
from ..engine.own_data import check_classes, raise_for, size_as_read
from ..registry import DATASETS


@DATASETS.register_module()
class CocoInstances(CocoDataset):
    """mmdet's ``CocoDataset`` for data of a user's own, on a local disk.

    mmdet drops classes that the file has not, numbers the others in the file's order whatever the order of
    ``classes``, and leaves out annotations of unknown categories, all without a word. Categories of the file that are
    not in ``classes`` are left out here, too. Arguments are those of mmdet's class; ``metainfo`` must have
    ``classes``.

    Raises:
        ValueError: if ``classes`` is no list of different names, or ``ann_file`` is not in COCO's format, has not
            these categories in this order, has annotations without image or category, or names images that are
            missing or of another size.
    """

    def __init__(self, *, metainfo: dict | None = None, **kwargs) -> None:
        check_classes((metainfo or {}).get('classes'))
        super().__init__(metainfo=metainfo, **kwargs)

    def load_data_list(self) -> list[dict]:
        """The images with their objects, as in mmdet, after the check."""
        check_file(self.ann_file, self.metainfo['classes'], self.data_prefix.get('img') or '')
        return super().load_data_list()


def check_file(ann_file: str, classes: Sequence[str], folder: str) -> None:
    """Checks a file in COCO's format and its images.

    Args:
        ann_file: The file.
        classes: Names of categories.
        folder: Where the images are.

    Raises:
        ValueError: if it is none, or does not fit; see :class:`CocoInstances`.
    """
    coco = read(ann_file)
    named = [c['name'] for c in coco['categories']]
    ordered = [name for name in named if name in classes]
    if sorted(ordered) != sorted(classes):
        missing = [name for name in classes if name not in named]
        what = f'none called {first(missing)}' if missing else 'a name more than once'
        raise ValueError(f'{ann_file}: categories must have each of metainfo.classes once, got {what}; categories are '
                         f'{first(named)}')
    if ordered != list(classes):
        raise ValueError(f'metainfo.classes must be in the order of the categories of {ann_file}, {tuple(ordered)}, '
                         f'got {tuple(classes)}')
    images, categories = {i['id']: i for i in coco['images']}, {c['id'] for c in coco['categories']}
    wanted = {c['id'] for c in coco['categories'] if c['name'] in classes}
    paths = [os.path.join(folder, i['file_name']) for i in images.values()]
    absent = [path for path in paths if not os.path.isfile(path)]
    raise_for({
        'ids of images must be different': [i['file_name'] for i in coco['images'] if images[i['id']] is not i],
        'image_id must be the id of an image':
            [f'annotation {a["id"]} has {a["image_id"]}' for a in coco['annotations'] if a['image_id'] not in images],
        'category_id must be the id of a category':
            [f'annotation {a["id"]} has {a["category_id"]}' for a in coco['annotations']
             if a['category_id'] not in categories],
        f'file_name must name an image in {folder or "."}': absent}, ann_file)
    if not any(a['category_id'] in wanted for a in coco['annotations']):
        raise ValueError(f'{ann_file}: annotations must have an object of metainfo.classes at least, got none')
    sizes = [(path, size_as_read(path), (i['width'], i['height'])) for path, i in zip(paths, images.values())]
    raise_for({'width and height must be those of the image as it is read, turned as its EXIF says':
               [f'{path} is {found[0]} x {found[1]} px, not {said[0]} x {said[1]}'
                for path, found, said in sizes if found != said]}, ann_file)


def read(ann_file: str) -> dict:
    """The content of a file in COCO's format.

    Raises:
        ValueError: if it is missing, not JSON, or has not what each image, category and annotation needs.
    """
    try:
        with open(ann_file, encoding='utf-8') as file:
            coco = json.load(file)
    except (OSError, ValueError) as e:
        raise ValueError(f'ann_file must be a file in COCO\'s format, got {ann_file}: {type(e).__name__}: {e}') from e
    keys = dict(images=('id', 'file_name', 'width', 'height'), categories=('id', 'name'),
                annotations=('id', 'image_id', 'category_id', 'bbox', 'area'))
    for part, names in keys.items():
        items = coco.get(part) if isinstance(coco, dict) else None
        if not isinstance(items, list) or not all(isinstance(item, dict) and item.keys() >= {*names} for item in items):
            raise ValueError(f'{ann_file}: {part} must be a list whose items have {", ".join(names)}, as in COCO\'s '
                             'format')
    return coco
