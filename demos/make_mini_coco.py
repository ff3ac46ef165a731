#!/usr/bin/env python3
"""Writes a small instance data set in COCO format, the same for the same arguments.

Objects are discs, triangles, stars and squares, cut from photographs, tinted towards a colour that is typical of their
class, turned a little and pasted on other photographs; what is pasted later hides what was pasted before. Polygons are
exact: those of the shapes, less what hides them, computed by geometry and not from pixels. The photographs are those
that scikit-image ships; train and val share none.

    python demos/make_mini_coco.py data/mini_coco
    python demos/make_mini_coco.py data/mini_coco_1 --seed 1 --train 400 --val 80
"""
from __future__ import annotations

import json
import math
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mini_data import crop, write_data_set

try:
    from shapely import Polygon
    PHOTOGRAPHS = files('skimage.data')
except ImportError as missing:
    sys.exit(f"make_mini_coco: {missing}; install the extra: pip install 'mmswinv2-plugin[dev]'")

CLASSES = dict(disc=(215, 70, 60), triangle=(70, 175, 80), star=(235, 205, 70), square=(80, 110, 220))  # typical colour
SPLITS = dict(
    train=('astronaut.png', 'camera.png', 'coffee.png', 'hubble_deep_field.jpg', 'ihc.png', 'motorcycle_left.png',
           'brick.png', 'moon.png', 'cell.png'),
    val=('chelsea.png', 'rocket.jpg', 'retina.jpg', 'gravel.png', 'grass.png', 'coins.png', 'clock_motion.png'))
WIDTHS, HEIGHTS = (144, 176), (112, 144)  # pixels
DIAMETERS = (26, 72)  # pixels
MAX_OBJECTS = 5
MIN_VISIBLE = .5  # of an object's area
MIN_PART = 12.  # square pixels
MAX_TURN = 25  # degrees
TINT = (.5, .85)  # how much of an object's colour is that of its class
MIN_CONTRAST = 60.  # between the mean colours of an object and of what it is pasted on, of 255
SUPERSAMPLING = 4


def main() -> int:
    """Reads the command line; returns the exit code."""
    return write_data_set(__doc__, 'mini_coco', write_split, train=320, val=60)


def write_split(out: Path, split: str, count: int, seed: tuple[int, int]) -> str:
    """Writes the images and annotations of a split; returns how many objects there are."""
    photographs = [np.asarray(Image.open(PHOTOGRAPHS / name).convert('RGB')) for name in SPLITS[split]]
    (out / split).mkdir(parents=True)
    coco = dict(
        info=dict(description=f'mini COCO, {split}, seed {seed[0]}'), licenses=[], images=[], annotations=[],
        categories=[dict(id=i + 1, name=name, supercategory='shape') for i, name in enumerate(CLASSES)])
    for i in range(count):
        image, objects = make_image(photographs, np.random.default_rng((*seed, i)))
        name = f'{i:06d}.png'
        Image.fromarray(image).save(out / split / name)
        coco['images'].append(dict(id=i + 1, file_name=name, width=image.shape[1], height=image.shape[0]))
        for label, shape in objects:
            x0, y0, x1, y1 = shape.bounds
            coco['annotations'].append(dict(
                id=len(coco['annotations']) + 1, image_id=i + 1, category_id=label + 1, iscrowd=0,
                segmentation=[[round(v, 2) for point in part.exterior.coords[:-1] for v in point]
                              for part in parts(shape)],
                bbox=[round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0)], area=round(shape.area, 2)))
    (out / 'annotations').mkdir(exist_ok=True)
    (out / 'annotations' / f'instances_{split}.json').write_text(json.dumps(coco))
    return f'{len(coco["annotations"])} objects'


def make_image(photographs: list[np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, list]:
    """Makes an image and its objects as (class index, visible shape)."""
    width, height = rng.integers(*WIDTHS, endpoint=True), rng.integers(*HEIGHTS, endpoint=True)
    background = rng.integers(len(photographs))
    image = crop(photographs[background], int(width), int(height), rng).astype(np.float64)
    textures = [p for i, p in enumerate(photographs) if i != background]
    objects: list = []
    wanted = rng.integers(1, MAX_OBJECTS, endpoint=True)
    for _ in range(20 * MAX_OBJECTS):
        if len(objects) == wanted:
            break
        label = int(rng.integers(len(CLASSES)))
        name = list(CLASSES)[label]
        diameter = math.exp(rng.uniform(*np.log(DIAMETERS)))
        shape = make_shape(name, diameter, rng)
        x0, y0, x1, y1 = shape.bounds
        if x1 - x0 > width - 2 or y1 - y0 > height - 2:
            continue
        shape = move(shape, rng.uniform(1 - x0, width - 1 - x1), rng.uniform(1 - y0, height - 1 - y1))
        hidden = hide(objects, shape)
        if hidden is None:
            continue
        alpha = rasterize(shape, int(width), int(height))
        paste(image, alpha, textures, np.array(CLASSES[name], dtype=np.float64), rng)
        objects = [*hidden, (label, shape, shape.area)]
    return image.round().astype(np.uint8), [(label, shape) for label, shape, _ in objects]


def make_shape(name: str, diameter: float, rng: np.random.Generator) -> Polygon:
    """A shape about the origin, upright but for a small turn; ``diameter`` in pixels."""
    radius, turn = diameter / 2, math.radians(rng.uniform(-MAX_TURN, MAX_TURN))
    if name == 'disc':
        angles, radii = np.linspace(0, 2 * math.pi, 32, endpoint=False), np.full(32, radius)
    elif name == 'triangle':
        angles, radii = np.linspace(0, 2 * math.pi, 3, endpoint=False) - math.pi / 2, np.full(3, radius)
    elif name == 'star':
        angles = np.linspace(0, 2 * math.pi, 10, endpoint=False) - math.pi / 2
        radii = np.where(np.arange(10) % 2, .42 * radius, radius)
    else:
        angles, radii = np.linspace(0, 2 * math.pi, 4, endpoint=False) + math.pi / 4, np.full(4, radius)
    points = np.stack([radii * np.cos(angles + turn), radii * np.sin(angles + turn)], 1)
    return Polygon(points)


def move(shape: Polygon, dx: float, dy: float) -> Polygon:
    """A shape moved by (dx, dy) pixels, its corners at hundredths of a pixel."""
    return Polygon([(round(x + dx, 2), round(y + dy, 2)) for x, y in shape.exterior.coords[:-1]])


def parts(shape) -> list[Polygon]:
    """The polygons of a polygon or of several."""
    return list(getattr(shape, 'geoms', [shape]))


def hide(objects: list, shape: Polygon) -> list | None:
    """What is left to see of objects behind ``shape``; None where that is too little, has holes or is in shreds."""
    visible = []
    for label, before, area in objects:
        after = before.difference(shape)
        if after.area < MIN_VISIBLE * area or any(
                not isinstance(p, Polygon) or p.interiors or p.area < MIN_PART for p in parts(after)):
            return None
        visible.append((label, after, area))
    return visible


def rasterize(shape: Polygon, width: int, height: int) -> np.ndarray:
    """The coverage of each pixel, shape (height, width), in [0, 1]; pixel (x, y) is the square [x, x+1) x [y, y+1)."""
    s = SUPERSAMPLING
    canvas = Image.new('L', (width * s, height * s))
    ImageDraw.Draw(canvas).polygon([(x * s - .5, y * s - .5) for x, y in shape.exterior.coords[:-1]], fill=1)
    return np.asarray(canvas, dtype=np.float64).reshape(height, s, width, s).mean((1, 3))


def paste(image: np.ndarray, alpha: np.ndarray, textures: list[np.ndarray], colour: np.ndarray,
          rng: np.random.Generator) -> None:
    """Fills the object with a piece of a photograph, in place: the first of several that stands out enough."""
    rows, cols = (np.flatnonzero(alpha.any(axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)
    image, alpha = image[box], alpha[box][..., None]
    behind = (image * alpha).sum((0, 1)) / alpha.sum()
    best, best_contrast = image, -1.
    for _ in range(12):
        texture = crop(textures[rng.integers(len(textures))], image.shape[1], image.shape[0], rng).astype(np.float64)
        # the photograph's light and shade about the colour: its mean moves towards that of the class
        mean = texture.mean((0, 1))
        texture = np.clip(texture + rng.uniform(*TINT) * (colour + rng.uniform(-30, 30, 3) - mean), 0, 255)
        front = (texture * alpha).sum((0, 1)) / alpha.sum()
        contrast = float(np.abs(front - behind).max())
        if contrast > best_contrast:
            best, best_contrast = texture, contrast
        if contrast >= MIN_CONTRAST:
            break
    image += alpha * (best - image)


if __name__ == '__main__':
    sys.exit(main())
