#!/usr/bin/env python3
"""Writes a small data set for semantic segmentation in the format of ADE20K, the same for the same arguments.

Scenes of six of its 150 classes, each with the texture of a photograph: a sky or a wall above, grass or earth below,
buildings, paintings and animals on them; here and there something of no class. Labels are ADE20K's: PNG files of 1 to
150, 0 where there is no class (``reduce_zero_label``). The photographs are those that scikit-image ships; train is made
of the upper part of each, val of the lower.

    python demos/make_mini_ade20k.py data/mini_ade20k
    python demos/make_mini_ade20k.py data/mini_ade20k_1 --seed 1 --train 400 --val 80
"""
from __future__ import annotations

import math
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mini_data import crop, write_data_set

try:
    PHOTOGRAPHS = files('skimage.data')
except ImportError as missing:
    sys.exit(f"make_mini_ade20k: {missing}; install the extra: pip install 'mmswinv2-plugin[dev]'")

# class: (label, photograph, colour that its texture is moved towards, how far)
CLASSES = dict(
    wall=(1, 'brick.png', (150, 95, 80), .7),
    sky=(3, 'moon.png', (120, 160, 215), .7),
    grass=(10, 'grass.png', (95, 140, 60), .7),
    earth=(14, 'gravel.png', (140, 115, 85), .7),
    painting=(23, 'ihc.png', (190, 140, 200), .6),
    animal=(127, 'chelsea.png', (225, 150, 60), .6))
NOTHING = (0, 'retina.jpg', (40, 20, 20), .4)  # of no class
SHARE = dict(train=(0., .58), val=(.62, 1.))  # rows of a photograph
FOLDER = dict(train='training', val='validation')
WIDTHS, HEIGHTS = (144, 192), (128, 160)  # pixels


def main() -> int:
    """Reads the command line; returns the exit code."""
    return write_data_set(__doc__, 'mini_ade20k', write_split, train=240, val=50)


def write_split(out: Path, split: str, count: int, seed: tuple[int, int]) -> str:
    """Writes the images and labels of a split; returns which share of pixels has a class."""
    textures = {}
    for name, (label, photograph, colour, by) in (*CLASSES.items(), ('', NOTHING)):
        pixels = np.asarray(Image.open(PHOTOGRAPHS / photograph).convert('RGB'))
        first, last = (int(s * len(pixels)) for s in SHARE[split])
        textures[name] = (label, pixels[first:last], np.array(colour, dtype=np.float64), by)
    labelled = 0.
    for kind in ('images', 'annotations'):
        (out / kind / FOLDER[split]).mkdir(parents=True)
    for i in range(count):
        image, labels = make_image(textures, np.random.default_rng((*seed, i)))
        name = f'ADE_{split}_{i + 1:08d}'
        Image.fromarray(image).save(out / 'images' / FOLDER[split] / f'{name}.jpg', quality=95)
        Image.fromarray(labels).save(out / 'annotations' / FOLDER[split] / f'{name}.png')
        labelled += (labels > 0).mean() / count
    return f'{labelled:.0%} of the pixels with a class'


def make_image(textures: dict, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Makes an image, (H, W, 3), and its labels, (H, W), uint8 both."""
    width, height = (int(rng.integers(*sizes, endpoint=True)) for sizes in (WIDTHS, HEIGHTS))
    image = np.zeros((height, width, 3))
    labels = np.zeros((height, width), dtype=np.uint8)

    def fill(name: str, polygon: list[tuple[float, float]]) -> None:
        canvas = Image.new('1', (width, height))
        ImageDraw.Draw(canvas).polygon(polygon, fill=1)
        where = np.asarray(canvas)
        label, photograph, colour, by = textures[name]
        texture = crop(photograph, width, height, rng).astype(np.float64)
        texture += by * (colour + rng.uniform(-35, 35, 3) - texture.mean((0, 1)))
        image[where] = texture[where]
        labels[where] = label

    left, right = rng.uniform(.3, .65, 2) * height  # the horizon
    above = 'sky' if rng.random() < .5 else 'wall'
    fill(above, [(0, 0), (width, 0), (width, height), (0, height)])
    if above == 'sky' and rng.random() < .7:
        x, w, top = rng.uniform(0, .6) * width, rng.uniform(.25, .5) * width, rng.uniform(.05, .25) * height
        fill('wall', [(x, top), (x + w, top), (x + w, height), (x, height)])
    if above == 'wall':
        for x in rng.permutation([.05, .55])[:rng.integers(1, 3)]:
            x, y = (x + rng.uniform(0, .1)) * width, rng.uniform(.02, .15) * height
            w, h = rng.uniform(36, 60), rng.uniform(30, 50)
            fill('painting', [(x, y), (x + w, y), (x + w, y + h), (x, y + h)])
    fill('grass' if rng.random() < .5 else 'earth', [(0, left), (width, right), (width, height), (0, height)])
    if rng.random() < .5:
        x = rng.uniform(.2, .8) * width
        name = 'earth' if labels[-1, 0] == CLASSES['grass'][0] else 'grass'
        ground = left + (right - left) * x / width
        fill(name, [(x, ground), (width, right), (width, height), (x + rng.uniform(-40, 40), height)])
    for name in ['animal'] * int(rng.integers(1, 3)) + [''] * int(rng.random() < .3):
        x, y = rng.uniform(.1, .9) * width, rng.uniform(.55, .9) * height
        radii = rng.uniform(.8, 1.2, 12) * rng.uniform(18, 34)
        turns = np.linspace(0, 2 * math.pi, 12, endpoint=False)
        fill(name, [(x + 1.2 * r * math.cos(a), y + .9 * r * math.sin(a)) for r, a in zip(radii, turns)])
    return np.clip(image.round(), 0, 255).astype(np.uint8), labels


if __name__ == '__main__':
    sys.exit(main())
