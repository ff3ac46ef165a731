#!/usr/bin/env python3
"""Makes a data set to train on from images annotated with labelme or in the formats of COCO, VOC or YOLO.

    python tools/prepare_data.py labelme FOLDER data/mine            # JSON files beside images
    python tools/prepare_data.py coco FILE.json data/mine            # images in its folder or below, or --images FOLDER
    python tools/prepare_data.py voc FOLDER data/mine                # Annotations/ and JPEGImages/, or both in one
    python tools/prepare_data.py yolo FOLDER data/mine               # labels/ and images/, names in data.yaml or a list

DST gets images/, train.json and val.json, with --masks masks/, a config to train with, and four annotated pictures to
look at in look/. Everything is checked as training checks it; what does not fit is named, and the exit code is then 1.
"""
from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib import import_module
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image, ImageDraw

from mmswinv2.core.checks import first
from mmswinv2.inputs import with_palette

if TYPE_CHECKING:
    from annotations import Annotated

ROOT = Path(__file__).resolve().parents[1]
SPLITS = 'train', 'val'
OUTPUTS = ('images', 'masks', 'look', 'train.json', 'val.json', 'instances.py', 'boxes.py', 'segmentation.py')
LOOK, SIDE = 4, 1200  # pictures to look at, and their longer side in pixels at most
BASES = {'instances.py': 'mmdet/htc_swinv2_t_own-data.py', 'boxes.py': 'mmdet/cascade-rcnn_swinv2_t_own-data.py',
         'segmentation.py': 'mmseg/upernet_swinv2_t_own-data.py'}
HEAD = '''# Written by tools/prepare_data.py: a config to train with (docs/own_data.md).
_base_ = {base!r}

classes = {classes!r}
data_root = '{{{{ fileDirname }}}}/'  # the folder of this file

'''
DETECTION = HEAD + '''model = dict(roi_head=dict(num_classes=len(classes)))
data = dict(data_root=data_root, metainfo=dict(classes=classes))
train_dataloader = dict(
    dataset=dict(
        ann_file='train.json',
        data_prefix=dict(img='images/train/'),
        filter_cfg=dict(filter_empty_gt=False, min_size=1),  # images without objects are trained on, too
        **data))
val_dataloader = dict(dataset=dict(ann_file='val.json', data_prefix=dict(img='images/val/'), **data))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'val.json')
test_evaluator = val_evaluator
'''
SEGMENTATION = HEAD + '''num_classes = len(classes)
model = dict(decode_head=dict(num_classes=num_classes), auxiliary_head=dict(num_classes=num_classes))
data = dict(data_root=data_root, metainfo=dict(classes=classes))
train_dataloader = dict(dataset=dict(data_prefix=dict(img_path='images/train', seg_map_path='masks/train'), **data))
val_dataloader = dict(dataset=dict(data_prefix=dict(img_path='images/val', seg_map_path='masks/val'), **data))
test_dataloader = val_dataloader
'''


def main(argv: list[str] | None = None) -> int:
    """Reads the command line; returns the exit code: 1 for data that do not fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('format', choices=('labelme', 'coco', 'voc', 'yolo'))
    parser.add_argument('src', metavar='SRC', type=Path, help='a folder, for coco a JSON file')
    parser.add_argument('dst', metavar='DST', type=Path, help='folder to write; must be absent or empty')
    parser.add_argument('--images', type=Path, help='coco: where the images are, or below (default: beside the file)')
    parser.add_argument('--val', type=float, default=.2, help='share of the images to validate with (default .2)')
    parser.add_argument('--seed', type=int, default=0, help='of the division into train and val (default 0)')
    parser.add_argument('--masks', action='store_true', help='also write label images for semantic segmentation')
    parser.add_argument('--link', action='store_true', help='link to the images instead of copying them')
    parser.add_argument('--overwrite', action='store_true', help='replace what an earlier run wrote to DST')
    args = parser.parse_args(argv)
    try:
        prepare(args)
    except (ValueError, OSError, ImportError) as e:
        print(f'prepare_data: {" ".join(str(e).split())}', file=sys.stderr)
        return 1
    return 0


def prepare(args: argparse.Namespace) -> None:
    """Reads, checks, divides and writes; a ``ValueError`` says what does not fit, before anything is written."""
    check_arguments(args)
    import annotations
    if args.masks:
        import_module('mmseg')
    with TemporaryDirectory() as scratch:  # for images that are in annotations
        folder = annotations.Folder((args.images or args.src.parent) if args.format == 'coco' else args.src, args.dst)
        if args.format == 'labelme':
            images, classes = annotations.read_labelme(folder, Path(scratch))
        elif args.format == 'coco':
            images, classes = annotations.read_coco(args.src, folder)
        else:
            images, classes = (annotations.read_voc if args.format == 'voc' else annotations.read_yolo)(folder)
        annotations.check(images, classes, args.src, masks=args.masks)
        parts = divide(images, args.val, args.seed)
        for name in OUTPUTS if args.overwrite else ():
            path = args.dst / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        names = unique_names(images)
        for split, part in parts.items():
            write(args.dst, split, part, classes, names, masks=args.masks, link=args.link)
    objects = [o for image in images for o in image.objects]
    boxes = sum('segmentation' not in o for o in objects)
    configs = ['boxes.py' if boxes else 'instances.py', *(['segmentation.py'] if args.masks else [])]
    for name in configs:
        write_config(args.dst, name, ('background', *classes) if name == 'segmentation.py' else tuple(classes))
        check_as_training(args.dst / name)
    print('\n'.join(report(parts, classes)))
    left_out = sorted({*folder.images} - {image.path for image in images}) if args.format in ('labelme', 'voc') else []
    if left_out:
        print(f'{len(left_out)} images without a file of annotations are left out: {first(map(str, left_out))}')
    if 0 < boxes < len(objects):
        print(f'{boxes} of {len(objects)} objects have no polygon: boxes.py trains on boxes alone')
    if args.masks:
        print('masks: 0 is the background, classes follow from 1; where objects overlap, the smaller one is on top')
    print(f'look at {args.dst / "look"}, then train:')
    print('\n'.join(f'    mim train {BASES[name].split("/")[0]} {args.dst / name}' for name in configs))


def check_arguments(args: argparse.Namespace) -> None:
    """A ``ValueError`` says which argument is out of range or in the way of another."""
    if not 0 < args.val < 1:
        raise ValueError(f'--val must be a share of the images, more than 0 and less than 1, got {args.val}')
    if args.images and args.format != 'coco':
        raise ValueError(f'--images must be left out but for coco, got {args.images} for {args.format}')
    if not args.src.exists():
        raise ValueError(f'SRC must be a {"file" if args.format == "coco" else "folder"}, got {args.src}')
    if args.dst.exists() and not args.dst.is_dir():
        raise ValueError(f'DST must be a folder, got {args.dst}, which is a file')
    if args.dst.exists() and any(args.dst.iterdir()) and not args.overwrite:
        raise ValueError(f'DST must be absent or empty, got {args.dst}; --overwrite replaces what an earlier run wrote')


def divide(images: list[Annotated], share: float, seed: int) -> dict[str, list[Annotated]]:
    """Divides images at random; each class of two images or more is in both parts where that is possible."""
    order = list(range(len(images)))
    random.Random(seed).shuffle(order)
    classes = [{o['category'] for o in image.objects} for image in images]
    left = Counter(chain(*classes))  # images of a class in train
    val: set[int] = set()

    def move(candidates: list[int], number: int) -> None:
        for i in candidates:
            if len(val) < number and i not in val and all(left[name] > 1 for name in classes[i]):
                val.add(i)
                left.subtract(classes[i])

    for name in sorted(left, key=lambda name: (left[name], name)):  # rare ones first
        if not any(name in classes[i] for i in val):
            move([i for i in order if name in classes[i]], len(val) + 1)
    if not val:  # no class is in two images
        val.add(next(i for i in order if classes[i]))
    move(order, round(share * len(images)))
    return {split: [image for i, image in enumerate(images) if (i in val) == (split == 'val')] for split in SPLITS}


def unique_names(images: list[Annotated]) -> dict[Path, str]:
    """A file name for each image; where two would differ in no more than the suffix, that of the folder is added."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in (image.path for image in images):
        tries = chain([path.stem, f'{path.parent.name}_{path.stem}'], (f'{path.stem}_{n}' for n in count(2)))
        stem = next(stem for stem in tries if stem.lower() not in taken)
        taken.add(stem.lower())
        names[path] = stem + path.suffix
    return names


def write(dst: Path, split: str, images: list[Annotated], classes: list[str], names: dict[Path, str], *, masks: bool,
          link: bool) -> None:
    """Writes the images of a part, its JSON file, with ``masks`` its label images, and pictures to look at."""
    folders = {name: dst / name / split for name in ('images', *(['masks'] if masks else []))}
    for folder in (*folders.values(), dst / 'look'):
        folder.mkdir(parents=True, exist_ok=True)
    coco = dict(images=[], annotations=[], categories=[dict(id=i, name=name) for i, name in enumerate(classes, 1)])
    for number, image in enumerate(images, start=1):
        name, (width, height) = names[image.path], image.size
        copy = folders['images'] / name
        if link and not image.embedded:
            copy.symlink_to(image.path.resolve())
        else:
            shutil.copyfile(image.path, copy)
        coco['images'].append(dict(id=number, file_name=name, width=width, height=height))
        for o in image.objects:
            label = classes.index(o['category']) + 1
            kept = {key: o[key] for key in ('bbox', 'area', 'iscrowd', 'segmentation') if key in o}
            coco['annotations'].append(dict(kept, id=len(coco['annotations']) + 1, image_id=number, category_id=label))
        if masks:
            paint(image, classes).save((folders['masks'] / name).with_suffix('.png'))
    (dst / f'{split}.json').write_text(json.dumps(coco))
    for image in sorted(images, key=lambda image: not image.objects)[:LOOK // len(SPLITS)]:  # those with objects first
        draw(image, classes).save((dst / 'look' / f'{split}_{names[image.path]}').with_suffix('.jpg'))


def mask_of(o: dict, size: tuple[int, int]) -> np.ndarray:
    """The mask of an object, (height, width), as training makes it."""
    from pycocotools.coco import COCO
    coco = COCO()
    coco.imgs[0] = dict(width=size[0], height=size[1])
    return coco.annToMask(dict(o, image_id=0)).astype(bool)


def paint(image: Annotated, classes: list[str]) -> Image.Image:
    """The label image: 0 is the background, classes are from 1, and smaller objects are on top."""
    from mmswinv2.segmentation.data import label_image
    labels = np.zeros(image.size[::-1], dtype=np.uint8)
    for o in sorted(image.objects, key=lambda o: -o['area']):
        labels[mask_of(o, image.size)] = classes.index(o['category']) + 1
    return label_image(labels, with_palette(dict(classes=['background', *classes]))['palette'])


def draw(image: Annotated, classes: list[str]) -> Image.Image:
    """The image as training reads it, with its objects."""
    pixels = mmcv.imread(str(image.path), channel_order='rgb')
    colours = dict(zip(classes, with_palette(dict(classes=classes))['palette']))
    for o in image.objects:
        if 'segmentation' in o:
            mask = mask_of(o, image.size)
            pixels[mask] = pixels[mask] // 2 + np.array(colours[o['category']], dtype=np.uint8) // 2
    picture = Image.fromarray(pixels)
    picture.thumbnail((SIDE, SIDE))
    pen, scale = ImageDraw.Draw(picture), picture.width / image.size[0]
    for o in image.objects:
        x, y, w, h = (scale * value for value in o['bbox'])
        pen.rectangle([x, y, x + w, y + h], outline=colours[o['category']], width=2)
        pen.text((x + 4, y + 2), o['category'], fill='white', stroke_width=2, stroke_fill='black', font_size=16)
    return picture


def write_config(dst: Path, name: str, classes: tuple[str, ...]) -> None:
    """Writes a config; in a checkout its base is relative, so that the checkout can be moved."""
    base = ROOT / 'configs' / BASES[name]
    if dst.resolve().is_relative_to(ROOT):
        base = os.path.relpath(base, dst.resolve())
    text = SEGMENTATION if name == 'segmentation.py' else DETECTION
    (dst / name).write_text(text.format(base=str(base), classes=classes), encoding='utf-8')


def check_as_training(config: Path) -> None:
    """Builds the data sets of a config, which check themselves."""
    cfg = Config.fromfile(config)
    import_module(f'{cfg.default_scope}.utils').register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope(cfg.default_scope), redirect_stdout(io.StringIO()):
        for loader in cfg.train_dataloader, cfg.val_dataloader:
            DATASETS.build(dict(loader.dataset, serialize_data=False))  # serializing collects garbage


def report(parts: dict[str, list[Annotated]], classes: list[str]) -> Iterator[str]:
    """A table of classes: objects and images of each part, and the median size of objects."""
    for split, images in parts.items():
        yield f'{split}: {len(images)} images, {sum(not image.objects for image in images)} of them without objects'
    width = max(map(len, ('class', *classes)))
    yield f'{"class":{width}}  objects: train    val  images: train    val  median width x height in pixels'
    for name in classes:
        found = {split: [[o['bbox'] for o in image.objects if o['category'] == name] for image in images]
                 for split, images in parts.items()}
        objects, images = ([sum(map(number, found[split])) for split in SPLITS] for number in (len, bool))
        boxes = list(chain(*chain(*found.values())))
        size = ' x '.join(f'{side:.0f}' for side in np.median(boxes, axis=0)[2:]) if boxes else 'none'
        yield (f'{name:{width}}  {objects[0]:14} {objects[1]:6}  {images[0]:13} {images[1]:6}  {size}')


if __name__ == '__main__':
    sys.exit(main())
