#!/usr/bin/env python3
"""Writes a small data set for classification, a folder per class as ImageNet has, the same for the same arguments.

Images are those of Fashion-MNIST, padded to 32 px, where its four files are: in the folder that --fashion-mnist names,
or where Debian's package dataset-fashion-mnist puts them. Otherwise they are crops of the photographs that
scikit-image ships, and the class is the photograph; train is made of the upper part of each, val of the lower.

    python demos/make_mini_imagenet.py data/mini_imagenet
    python demos/make_mini_imagenet.py data/mini_imagenet_1 --seed 1 --train 6000 --val 1000
"""
from __future__ import annotations

import argparse
import gzip
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from mini_data import crop, write_data_set

SIZE = 32  # pixels
DEBIAN = Path('/usr/share/datasets/fashion-mnist')
CLOTHES = ('t-shirt', 'trouser', 'pullover', 'dress', 'coat', 'sandal', 'shirt', 'sneaker', 'bag', 'boot')
FILES = dict(train='train', val='t10k')
PHOTOGRAPHS = ('astronaut.png', 'brick.png', 'chelsea.png', 'coffee.png', 'grass.png', 'gravel.png', 'ihc.png',
               'moon.png', 'motorcycle_left.png', 'rocket.jpg')
SHARE = dict(train=(0., .58), val=(.62, 1.))  # rows of a photograph


def main() -> int:
    """Reads the command line; returns the exit code."""
    return write_data_set(__doc__, 'mini_imagenet', write_split, train=12000, val=2000, add_options=add_options,
                          read_options=read_options)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the source."""
    parser.add_argument('--fashion-mnist', type=Path, metavar='FOLDER', help='with the four files of Fashion-MNIST, '
                        f'packed by gzip or not (default {DEBIAN}, where it is there)')
    parser.add_argument('--photographs', action='store_true', help='crops of photographs in any case')


def read_options(args: argparse.Namespace) -> dict:
    """Which source is taken.

    Raises:
        ValueError: if the folder that was named has not the files.
    """
    if args.photographs and args.fashion_mnist:
        raise ValueError('--photographs must be given without --fashion-mnist, got both')
    folder = None if args.photographs else args.fashion_mnist or DEBIAN
    if folder is not None and all(find(folder, split, kind) for split in FILES for kind in ('images', 'labels')):
        for split in FILES:
            there = len(read(folder, split, 'labels'))
            if getattr(args, split) > there:
                raise ValueError(f'--{split} must be <= {there} for Fashion-MNIST, got {getattr(args, split)}')
        return dict(source=str(folder))
    if args.fashion_mnist:
        raise ValueError(f'--fashion-mnist must be a folder with the four files of Fashion-MNIST, got {folder}')
    if not all((files('skimage.data') / name).is_file() for name in PHOTOGRAPHS):
        raise ValueError("scikit-image must be installed with its photographs: pip install 'mmswinv2-plugin[dev]'")
    return dict(source='photographs')


def find(folder: Path, split: str, kind: str) -> Path | None:
    """A file of Fashion-MNIST."""
    name = f'{FILES[split]}-{kind}-idx{dict(images=3, labels=1)[kind]}-ubyte'
    return next((path for path in (folder / name, folder / f'{name}.gz') if path.is_file()), None)


def write_split(out: Path, split: str, count: int, seed: tuple[int, int], source: str) -> str:
    """Writes the images of a split; returns where they are from."""
    rng = np.random.default_rng(seed)
    images, labels, names = photographs(split, count, rng) if source == 'photographs' else clothes(
        Path(source), split, count, rng)
    for name in names:
        (out / split / name).mkdir(parents=True)
    for i, (image, label) in enumerate(zip(images, labels)):
        Image.fromarray(image).save(out / split / names[label] / f'{i:05d}.png')
    return f'{len(names)} classes of {"photographs" if source == "photographs" else "Fashion-MNIST"}'


def read(folder: Path, split: str, kind: str) -> np.ndarray:
    """Images (N, 28, 28) or labels (N,) of Fashion-MNIST."""
    path = find(folder, split, kind)
    packed = path.read_bytes()
    data = gzip.decompress(packed) if path.suffix == '.gz' else packed
    if kind == 'images':
        return np.frombuffer(data, np.uint8, offset=16).reshape(-1, 28, 28)
    return np.frombuffer(data, np.uint8, offset=8)


def clothes(folder: Path, split: str, count: int, rng: np.random.Generator) -> tuple:
    """Some of Fashion-MNIST: images (N, 32, 32), labels (N,), names of classes."""
    images, labels = (read(folder, split, kind) for kind in ('images', 'labels'))
    chosen = np.sort(rng.permutation(len(labels))[:count])
    return np.pad(images[chosen], ((0, 0), (2, 2), (2, 2))), labels[chosen], CLOTHES


def photographs(split: str, count: int, rng: np.random.Generator) -> tuple:
    """Crops: images (N, 32, 32, 3), labels (N,), names of classes."""
    textures = []
    for name in PHOTOGRAPHS:
        pixels = np.asarray(Image.open(files('skimage.data') / name).convert('RGB'))
        first, last = (int(s * len(pixels)) for s in SHARE[split])
        textures.append(pixels[first:last])
    labels = np.arange(count) % len(textures)
    images = np.stack([crop(textures[label], SIZE, SIZE, rng) for label in labels])
    return images, labels, [name.partition('.')[0] for name in PHOTOGRAPHS]


if __name__ == '__main__':
    sys.exit(main())
