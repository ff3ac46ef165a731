"""What the tools that write small data sets share: the command line, and writing all or nothing."""
from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def write_data_set(description: str, name: str, write_split: Callable[[Path, str, int, tuple[int, int]], str], *,
                   train: int, val: int) -> int:
    """Reads the command line and writes a data set beside its place first, so that it is whole or not there.

    Args:
        description: For ``--help``.
        name: Of the data set; ``NAME.json`` in its folder says what it was made with.
        write_split: Called with a folder, ``'train'`` or ``'val'``, a number of images and a seed; returns a summary.
        train: Images to train on if the command line does not say.
        val: Images to test on if it does not.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='folder to write; must be absent, empty or an earlier result')
    parser.add_argument('--train', type=int, default=train, help=f'images to train on (default {train})')
    parser.add_argument('--val', type=int, default=val, help=f'images to test on (default {val})')
    parser.add_argument('--seed', type=int, default=0, help='another seed gives another data set (default 0)')
    args = parser.parse_args()
    for option in ('train', 'val'):
        if getattr(args, option) < 1:
            parser.error(f'--{option} must be >= 1 images, got {getattr(args, option)}')
    if args.seed < 0:
        parser.error(f'--seed must be >= 0, got {args.seed}')
    spec = dict(format=1, train=args.train, val=args.val, seed=args.seed)
    marker = args.out / f'{name}.json'
    if args.out.exists() and not args.out.is_dir():
        parser.error(f'OUT must be a folder, got the file {args.out}')
    if args.out.exists() and any(args.out.iterdir()):
        if not marker.is_file():
            parser.error(f'OUT must be absent, empty or an earlier result, but {args.out} holds something else')
        if json.loads(marker.read_text()) == spec:
            print(f'{args.out}: already there')
            return 0
    partial = args.out.with_name(args.out.name + '.partial')
    shutil.rmtree(partial, ignore_errors=True)
    for number, (split, count) in enumerate((('train', args.train), ('val', args.val))):
        print(f'{args.out}: {split}, {count} images, {write_split(partial, split, count, (args.seed, number))}')
    (partial / marker.name).write_text(json.dumps(spec))
    if args.out.exists():
        shutil.rmtree(args.out)
    os.replace(partial, args.out)
    return 0


def crop(photograph: np.ndarray, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """A piece of a photograph at a random place and scale, maybe mirrored, shape (height, width, 3)."""
    h, w = photograph.shape[:2]
    most = min(w / width, h / height)
    scale = rng.uniform(min(.6, most), min(most, 2.))  # photograph pixels per pixel
    cw, ch = int(width * scale), int(height * scale)
    x, y = rng.integers(w - cw, endpoint=True), rng.integers(h - ch, endpoint=True)
    piece = Image.fromarray(photograph[y:y + ch, x:x + cw]).resize((width, height), Image.Resampling.BILINEAR)
    piece = np.asarray(piece)
    return piece[:, ::-1] if rng.random() < .5 else piece
