#!/usr/bin/env python3
"""Writes eleven photographs with annotations made by hand, as a data set of one's own looks: what docs/own_data.md is
tried on.

    python demos/make_photographs.py data/photographs

    images/train, images/val    photographs: .jpg and .png, RGB, grey and with an alpha channel
    train.json, val.json        heads and discs in COCO's format
    masks/train, masks/val      the same as label maps: 0 background, 1 head, 2 disc, 255 ignored, the outlines

The photographs are those that scikit-image and matplotlib ship; motorcycle_left and motorcycle_right are one scene from
two places. A disc is anything round seen from the front: a coin, a wheel, a cup's rim, a crater, a retina, a cell.
"""
from __future__ import annotations

import argparse
import json
import math
import sys
from importlib.resources import files
from pathlib import Path

from PIL import Image, ImageDraw

CLASSES = ('head', 'disc')
COINS = [  # centre and radius, pixels
    (335, 44, 29), (155, 51, 23), (215, 51, 23), (276, 52, 20), (44, 54, 21), (100, 56, 19), (271, 119, 25),
    (45, 124, 20), (205, 124, 20), (336, 125, 19), (102, 126, 19), (154, 127, 19), (347, 187, 32), (212, 193, 24),
    (274, 194, 22), (102, 196, 22), (44, 197, 19), (154, 198, 19), (46, 260, 28), (172, 261, 27), (301, 263, 25),
    (244, 263, 24), (114, 266, 21), (358, 268, 22)]
FRONT_WHEEL = [(517, 312), (528, 289), (559, 282), (644, 312), (667, 343), (682, 382), (680, 412), (667, 439),
               (636, 449), (605, 443), (567, 420), (536, 385), (521, 347)]


def ellipse(x: float, y: float, rx: float, ry: float, corners: int = 24) -> list[tuple[float, float]]:
    """The outline of an ellipse about (x, y), in pixels."""
    angles = [2 * math.pi * i / corners for i in range(corners)]
    return [(round(x + rx * math.cos(a), 1), round(y + ry * math.sin(a), 1)) for a in angles]


def left(points: list[tuple[float, float]], shift: float) -> list[tuple[float, float]]:
    """An outline moved to the left by ``shift`` pixels."""
    return [(x - shift, y) for x, y in points]


# by split and photograph: the mode it is written in, and what is in it: (class, outline in pixels)
PHOTOGRAPHS = dict(
    train={
        'astronaut.png': ('RGB', [('head', [
            (191, 36), (205, 24), (228, 17), (245, 18), (262, 26), (280, 36), (292, 50), (298, 66), (301, 84),
            (298, 105), (288, 118), (276, 128), (272, 136), (266, 136), (262, 152), (252, 166), (240, 175), (228, 178),
            (214, 175), (200, 166), (188, 153), (183, 140), (181, 131), (174, 127), (170, 118), (160, 110), (155, 98),
            (154, 80), (156, 60), (166, 50), (178, 42)])]),
        'camera.png': ('L', [('head', [
            (163, 104), (172, 88), (182, 76), (196, 68), (215, 65), (230, 70), (246, 82), (260, 95), (268, 108),
            (270, 120), (266, 130), (258, 130), (256, 142), (253, 152), (254, 166), (246, 170), (245, 178), (242, 186),
            (238, 195), (228, 197), (214, 194), (200, 184), (188, 172), (178, 156), (168, 152), (161, 140),
            (160, 122)])]),
        'coffee.png': ('RGBA', [('disc', ellipse(290, 113, 118, 96))]),
        'coins.png': ('L', [('disc', ellipse(x, y, r, r)) for x, y, r in COINS]),
        'motorcycle_left.png': ('RGB', [('disc', ellipse(204, 320, 81, 83)), ('disc', FRONT_WHEEL)]),
        'motorcycle_right.png': ('RGB', [('disc', ellipse(158, 320, 79, 81)), ('disc', left(FRONT_WHEEL, 54))]),
        'moon.png': ('L', [('disc', ellipse(120, 88, 26, 26))]),
        'retina.jpg': ('RGB', [('disc', ellipse(702, 701, 695, 695))]),
    },
    val={
        'chelsea.png': ('RGB', [('head', [
            (60, 0), (385, 0), (365, 30), (350, 55), (338, 72), (352, 110), (360, 150), (352, 180), (340, 205),
            (330, 235), (318, 265), (290, 285), (255, 297), (215, 298), (150, 299), (90, 285), (60, 240), (40, 190),
            (36, 130), (44, 60)])]),
        'grace_hopper.jpg': ('RGB', [('head', [
            (174, 84), (195, 54), (220, 40), (241, 26), (262, 23), (287, 31), (304, 42), (333, 54), (348, 69),
            (354, 86), (367, 90), (370, 103), (372, 142), (370, 180), (376, 193), (371, 226), (363, 260), (356, 285),
            (342, 306), (329, 308), (323, 326), (304, 340), (225, 340), (210, 326), (204, 301), (183, 289), (166, 276),
            (161, 251), (153, 209), (154, 188), (162, 180), (162, 155), (151, 138), (156, 109), (164, 94)])]),
        'cell.png': ('L', [('disc', ellipse(428, 374, 63, 63))]),
    })


def main(argv: list[str] | None = None) -> int:
    """Reads the command line; returns the exit code: 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', metavar='OUT', type=Path, help='folder to write; must be absent or empty')
    args = parser.parse_args(argv)
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        print(f'make_photographs: OUT must be a folder that is absent or empty, got {args.out}', file=sys.stderr)
        return 2
    try:
        for split in PHOTOGRAPHS:
            print(f'{args.out}: {split}, {write_split(args.out, split)}')
    except ImportError as e:
        print(f"make_photographs: {e}; install the extra: pip install 'mmswinv2-plugin[dev]'", file=sys.stderr)
        return 2
    return 0


def open_photograph(name: str) -> Image.Image:
    """A photograph as scikit-image or matplotlib ship it."""
    if name == 'grace_hopper.jpg':
        import matplotlib
        return Image.open(Path(matplotlib.get_data_path()) / 'sample_data' / name)
    return Image.open(str(files('skimage.data') / name))


def write_split(out: Path, split: str) -> str:
    """Writes images, annotations and masks; returns how many there are."""
    coco = dict(images=[], annotations=[], categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)])
    for part in 'images', 'masks':
        (out / part / split).mkdir(parents=True)
    for number, (name, (mode, objects)) in enumerate(PHOTOGRAPHS[split].items(), start=1):
        image = open_photograph(name).convert(mode)
        image.save(out / 'images' / split / name)
        coco['images'].append(dict(id=number, file_name=name, width=image.width, height=image.height))
        mask = Image.new('L', image.size)
        draw = ImageDraw.Draw(mask)
        for kind, points in objects:
            label = CLASSES.index(kind) + 1
            draw.polygon(points, fill=label, outline=255, width=3)
            coco['annotations'].append(annotation(len(coco['annotations']) + 1, number, label, points))
        mask.save(out / 'masks' / split / Path(name).with_suffix('.png'))
    (out / f'{split}.json').write_text(json.dumps(coco))
    return f'{len(coco["images"])} photographs, {len(coco["annotations"])} objects'


def annotation(number: int, image: int, category: int, points: list[tuple[float, float]]) -> dict:
    """An object in COCO's format."""
    xs, ys = zip(*points)
    area = abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1]))) / 2
    return dict(id=number, image_id=image, category_id=category, iscrowd=0, area=area,
                bbox=[min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)],
                segmentation=[[v for point in points for v in point]])


if __name__ == '__main__':
    sys.exit(main())
