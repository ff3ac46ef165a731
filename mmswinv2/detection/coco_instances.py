"""A data set in COCO's format whose file is checked before it is used: what does not fit is an error that names it."""
from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence

import numpy as np
from mmdet.datasets import CocoDataset
from pycocotools import mask as coco_mask

from ..core.checks import first, is_int
from ..engine.repairs import category_id, count_every_annotation, name_classes_in_order, polygons
from ..inputs import raise_for, size_as_read, with_palette
from ..registry import DATASETS

PIXEL = 1 + 1e-6  # by which a box may leave its image: tools round
FAR = 10  # sides of the image to a point of a polygon; pycocotools takes memory for each pixel of the outline
ID = int, float, str
KINDS = dict(images=dict(id=ID, file_name=str), categories=dict(id=ID, name=str),
             annotations=dict(id=(*ID, type(None)), image_id=ID, category_id=ID))


@DATASETS.register_module()
class CocoInstances(CocoDataset):
    """mmdet's ``CocoDataset`` for data of a user's own, on a local disk.

    mmdet drops classes that the file has not, numbers the others in the file's order whatever the order of
    ``classes``, and leaves out annotations of unknown categories and boxes that it takes for invalid, all without a
    word. Categories of the file that are not in ``classes`` are left out here, too. Arguments are those of mmdet's
    class; ``metainfo`` must have ``classes``, and may have their colours, ``palette``. With ``test_mode`` the file may
    have images without annotations.

    Attributes:
        parts: Which of ``'images'``, ``'categories'`` and ``'annotations'`` (of ``classes``) the file has.

    Raises:
        ValueError: if ``classes`` is no list of different names, or ``ann_file`` is not in COCO's format, has not
            these categories in this order, has annotations without image or category, names images that are missing
            or of another size, or has objects that mmdet would drop: boxes that are smaller than a pixel or leave
            their image, and, if the pipeline loads masks, objects without one.
    """

    METAINFO: dict = {}  # not COCO's classes and colours

    def __init__(self, *, metainfo: dict | None = None, **kwargs) -> None:
        metainfo = with_palette(metainfo)
        count_every_annotation()
        name_classes_in_order()
        super().__init__(metainfo=metainfo, **kwargs)

    def load_data_list(self) -> list[dict]:
        """The images with their objects, as in mmdet, after the check."""
        steps = self.pipeline.transforms
        filters = {} if self.test_mode else self.filter_cfg or {}
        self.parts = check_file(
            self.ann_file, self.metainfo['classes'], self.data_prefix.get('img') or '', test=self.test_mode,
            masks=any(getattr(step, 'with_mask', False) for step in steps),
            turn=all(getattr(step, 'color_type', 'color') in ('color', 'grayscale') for step in steps),
            min_size=filters.get('min_size', 0))
        return super().load_data_list()


def check_file(ann_file: str, classes: Sequence[str], folder: str, *, test: bool = False, masks: bool = False,
               turn: bool = True, min_size: int = 0) -> set[str]:
    """Checks a file in COCO's format and the images in ``folder``; see :class:`CocoInstances`.

    With ``test`` the file may lack annotations, and with them categories; with ``masks`` each object needs a mask;
    ``turn``: whether images are turned as their EXIF says; images with objects have sides >= ``min_size`` px.

    Returns:
        Its parts that are not empty; annotations are those of ``classes``.
    """
    coco = read(ann_file, test=test)
    named = [c['name'] for c in coco['categories']]
    ordered = [name for name in named if name in classes]
    if sorted(ordered) != sorted(classes) and (named or not test):
        missing = [name for name in classes if name not in named]
        what = f'none called {first(missing)}' if missing else 'a name more than once'
        raise ValueError(f'{ann_file}: categories must have each of metainfo.classes once, got {what}; categories are '
                         f'{first(named)}')
    if named and ordered != list(classes):
        raise ValueError(f'metainfo.classes must be in the order of the categories of {ann_file}, {tuple(ordered)}, '
                         f'got {tuple(classes)}')
    check_ids(coco, ann_file)
    images = {i['id']: i for i in coco['images']}
    wanted = {c['id'] for c in coco['categories'] if c['name'] in classes}
    paths = [os.path.join(folder, i['file_name']) for i in images.values()]
    missing = [path for path in paths if not os.path.isfile(path)]
    raise_for({f'file_name must name an image in {folder or "."}': missing}, ann_file)
    objects = [a for a in coco['annotations'] if a['category_id'] in wanted]
    if not objects and not (test and images):
        raise ValueError(f'{ann_file}: annotations must have an object of metainfo.classes at least, got none')
    sizes = [(size_as_read(path, turn=turn), (i['width'], i['height'])) for path, i in zip(paths, images.values())]
    raise_for({f'width and height must be those of the image as it is read{", turned as its EXIF says" * turn}':
               [f'{path} is {found[0]} x {found[1]} px, not {said[0]!r} x {said[1]!r}'
                for path, (found, said) in zip(paths, sizes) if found != said]}, ann_file)
    check_objects(coco['annotations'], objects, images, ann_file, masks=masks, min_size=min_size)
    return {part for part, items in dict(coco, annotations=objects).items() if items}


def check_ids(coco: dict, ann_file: str) -> None:
    """Checks that images and categories have ids of their own, and annotations those of images and categories.

    Args:
        coco: As :func:`read` reads it.
        ann_file: The file.

    Raises:
        ValueError: if not.
    """
    images, categories = {i['id']: i for i in coco['images']}, {c['id']: c for c in coco['categories']}
    text = [i for i in coco['images'] if isinstance(i['id'], str)]
    raise_for({
        'ids of images must be different': [i['file_name'] for i in coco['images'] if images[i['id']] is not i],
        'ids of images must all be numbers or all be text':
            [f'{i["file_name"]} has {i["id"]!r}' for i in text if len(text) < len(coco['images'])],
        'ids of categories must be different integers':
            [f'{c["name"]} has {c["id"]!r}' for c in coco['categories']
             if categories[c['id']] is not c or not is_int(c['id'])],
        'image_id must be the id of an image':
            [f'annotation {a["id"]} has {a["image_id"]!r}' for a in coco['annotations']
             if a['image_id'] not in images],
        'category_id must be the id of a category':
            [f'annotation {a["id"]} has {a["category_id"]!r}' for a in coco['annotations']
             if a['category_id'] not in categories]}, ann_file)


def check_objects(annotations: list[dict], objects: list[dict], images: dict, ann_file: str, *, masks: bool,
                  min_size: int) -> None:
    """Checks that mmdet keeps each of the ``objects``, the annotations of the classes, and can read all annotations.

    Source:
        mmdetection 3.3.0, ``CocoDataset.parse_data_info``, ``CocoDataset.filter_data``,
        ``LoadAnnotations._process_masks``.
    """
    def name(annotation: dict, key: str) -> str:
        value = repr(annotation[key]) if key in annotation else 'none'
        return (f'annotation {annotation["id"]} of {images[annotation["image_id"]]["file_name"]} has '
                f'{value if len(value) <= 80 else value[:77] + "..."}')

    raise_for({'bbox must be four finite numbers (x, y, width, height in pixels)':
               [name(a, 'bbox') for a in annotations if not (are_numbers(a['bbox']) and len(a['bbox']) == 4)]},
              ann_file)
    boxes = np.array([a['bbox'] for a in objects], dtype=float).reshape(-1, 4)
    sizes = np.array([(images[a['image_id']]['width'], images[a['image_id']]['height']) for a in objects], dtype=float)
    low, sides, sizes = boxes[:, :2], boxes[:, 2:], sizes.reshape(-1, 2)
    small = (sides < 1).any(1)
    outside = ((low < -PIXEL) | (low + sides > sizes + PIXEL) | (low >= sizes) | (low + sides <= 0)).any(1)
    guesses = {  # what all boxes of a file may be instead
        '0 to 1?': (boxes >= 0) & (boxes <= 1),
        'corners?': (sides > low) & (sides <= sizes + PIXEL),
        'centres?': (low - sides / 2 >= -PIXEL) & (low + sides / 2 <= sizes + PIXEL)}
    guess = next((f' ({guess})' for guess, fits in guesses.items() if fits.all()), '')
    raise_for({
        f'sides of a bbox must be >= 1 px, mmdet drops others{guess}':
            [name(a, 'bbox') for a, bad in zip(objects, small) if bad],
        f'a bbox must be in its image but for a pixel of rounding{guess}':
            [name(a, 'bbox') for a, bad in zip(objects, outside) if bad],
        'area must be a finite number > 0, mmdet drops other objects':
            [name(a, 'area') for a in objects if not (are_numbers([a['area']]) and a['area'] > 0)],
        'iscrowd must be 0 or 1': [name(a, 'iscrowd') for a in objects if a.get('iscrowd') not in (None, 0, 1)],
        'ignore must be 0, mmdet trains on such objects as background (what is neither is a crowd: iscrowd 1)':
            [name(a, 'ignore') for a in objects if a.get('ignore')],
        f'images with objects must have sides >= filter_cfg.min_size, {min_size} px':
            list(dict.fromkeys(images[a['image_id']]['file_name']
                               for a, size in zip(objects, sizes) if min(size) < min_size))}, ann_file)
    without = [a for a in objects if masks and not is_mask(a, images[a['image_id']])]
    raise_for({'segmentation must have polygons of three points or more, or a run-length encoding of the image\'s '
               f'size, with a pixel in the image and by the bbox, to train on masks{guess_of_polygons(without)}':
               [name(a, 'segmentation') for a in without]}, ann_file)


def are_numbers(values: object) -> bool:
    """Whether these are a list of finite numbers."""
    try:
        return isinstance(values, list) and math.isfinite(sum(values))
    except (OverflowError, TypeError):
        return False


def is_mask(annotation: dict, image: dict) -> bool:
    """Whether an object has a mask with a pixel of its image: polygons that meet its box, or a run-length encoding."""
    segmentation, height, width = annotation.get('segmentation'), image['height'], image['width']
    if isinstance(segmentation, dict):
        counts = segmentation.get('counts')
        counts = run_lengths(counts) if isinstance(counts, str) else counts
        return (segmentation.get('size') == [height, width] and are_numbers(counts) and sum(counts) == height * width
                and all(n >= 0 and n == int(n) for n in counts) and any(counts[1::2]))
    parts = polygons(segmentation)
    if not parts or not all(map(are_numbers, parts)):
        return False
    (left, top, w, h), xs, ys = annotation['bbox'], sum((p[::2] for p in parts), []), sum((p[1::2] for p in parts), [])
    if min(xs) > left + w + PIXEL or max(xs) < left - PIXEL or min(ys) > top + h + PIXEL or max(ys) < top - PIXEL:
        return False
    if max(map(abs, xs + ys)) > FAR * (width + height):
        return False
    return any(coco_mask.area(coco_mask.frPyObjects(parts, height, width)))


def guess_of_polygons(objects: list[dict]) -> str:
    """What the polygons of a file may be instead."""
    parts = [part for a in objects for part in polygons(a.get('segmentation')) if are_numbers(part)]
    return ' (0 to 1?)' if parts and max(map(max, parts)) <= 1 else ''


def run_lengths(text: str) -> list[int] | None:
    """The run lengths of a compressed encoding, None if it is none: pycocotools does not check it, and may hang.

    Source:
        cocodataset/cocoapi, ``common/maskApi.c``, ``rleFrString`` (the format).
    """
    counts: list[int] = []
    value = shift = 0
    for digit in (ord(letter) - 48 for letter in text):  # five bits each, the sixth says that more follow
        if not 0 <= digit < 64:
            return None
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            value -= (digit & 16) << (shift - 4)  # the sign
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts if shift == 0 else None


def read(ann_file: str, *, test: bool = False) -> dict:
    """The lists of a file in COCO's format; with ``test`` it may lack categories and annotations.

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
    parts = {}
    for part, names in keys.items():
        items = coco.get(part, [] if test and part != 'images' else None) if isinstance(coco, dict) else None
        if not isinstance(items, list):
            raise ValueError(f'{ann_file}: {part} must be a list, as in COCO\'s format, got {type(items).__name__}')
        raise_for({f'{part} must have {", ".join(names)}, as in COCO\'s format':
                   [f'number {i} has {", ".join(item) if isinstance(item, dict) else repr(item)}'
                    for i, item in enumerate(items) if not (isinstance(item, dict) and item.keys() >= {*names})],
                   f'ids of {part} must be numbers or text, names text':
                   [f'number {i} has {key} {item.get(key)!r}' for i, item in enumerate(items) if isinstance(item, dict)
                    for key, kind in KINDS[part].items() if not isinstance(item.get(key), kind)]}, ann_file)
        parts[part] = items
    for item, key in [*((c, 'id') for c in parts['categories']), *((a, 'category_id') for a in parts['annotations'])]:
        item[key] = category_id(item[key])
    return parts
