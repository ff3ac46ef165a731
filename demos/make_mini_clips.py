#!/usr/bin/env python3
"""Writes a small data set of clips, as video files with lists that mmaction2 reads, the same for the same arguments.

In each clip a disc cut from one photograph moves to the left or right, grows or shrinks before another photograph;
the class is the photograph of the disc and what it does. A single frame shows the first, and only the order of frames
tells left from right and growing from shrinking. Photographs are those that scikit-image ships; train is made of the
upper part of each, val of the lower. Beside the clips there are stills, a folder per photograph of the disc.

    python demos/make_mini_clips.py data/mini_clips
    python demos/make_mini_clips.py data/mini_clips_1 --seed 1 --train 1000 --val 200
"""
from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mini_data import crop, write_data_set

SIZE, FRAMES = 32, 24  # pixels, and frames of a clip
ITEMS = ('coffee.png', 'grass.png', 'ihc.png', 'moon.png')  # of discs
BACKGROUNDS = ('astronaut.png', 'brick.png', 'chelsea.png', 'gravel.png', 'motorcycle_left.png')
MOTIONS = ('left', 'right', 'grow', 'shrink')
CLASSES = [f'{item.partition(".")[0]} {motion}' for item in ITEMS for motion in MOTIONS]
SHARE = dict(train=(0., .58), val=(.62, 1.))  # rows of a photograph


def main() -> int:
    """Reads the command line; returns the exit code."""
    return write_data_set(__doc__, 'mini_clips', write_split, train=2400, val=400, unit='clips', read_options=check)


def check(args) -> dict:
    """Whether the photographs are there.

    Raises:
        ValueError: if they are not.
    """
    if not all((files('skimage.data') / name).is_file() for name in (*ITEMS, *BACKGROUNDS)):
        raise ValueError("scikit-image must be installed with its photographs: pip install 'mmswinv2-plugin[dev]'")
    return {}


def write_split(out: Path, split: str, count: int, seed: tuple[int, int]) -> str:
    """Writes clips, their list, and a still of each, of a split."""
    rng, textures = np.random.default_rng(seed), photographs(split)
    (out / split).mkdir(parents=True)
    for item in ITEMS:
        (out / 'stills' / split / item.partition('.')[0]).mkdir(parents=True)
    lines = []
    for i in range(count):
        label = i % len(CLASSES)
        frames = make_clip(textures, label, rng)
        name = f'{i:05d}.avi'
        write_video(out / split / name, frames)
        lines.append(f'{name} {label}\n')
        item = ITEMS[label // len(MOTIONS)].partition('.')[0]
        Image.fromarray(frames[rng.integers(FRAMES)]).save(out / 'stills' / split / item / f'{i:05d}.png')
    (out / f'{split}.txt').write_text(''.join(lines))
    return f'{len(CLASSES)} classes, {FRAMES} frames of {SIZE} px'


def photographs(split: str) -> dict[str, np.ndarray]:
    """The part of each photograph that a split is made of, (H, W, 3)."""
    parts = {}
    for name in (*ITEMS, *BACKGROUNDS):
        pixels = np.asarray(Image.open(files('skimage.data') / name).convert('RGB'))
        first, last = (int(share * len(pixels)) for share in SHARE[split])
        parts[name] = pixels[first:last]
    return parts


def make_clip(textures: dict[str, np.ndarray], label: int, rng: np.random.Generator) -> np.ndarray:
    """A clip of a class, shape (FRAMES, SIZE, SIZE, 3)."""
    item, motion = divmod(label, len(MOTIONS))
    background = crop(textures[BACKGROUNDS[rng.integers(len(BACKGROUNDS))]], SIZE, SIZE, rng)
    texture = Image.fromarray(crop(textures[ITEMS[item]], SIZE, SIZE, rng))
    radii, xs, ys = paths(MOTIONS[motion], rng)
    return np.stack([paste(background, texture, *place) for place in zip(radii, xs, ys)])


def paths(motion: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Radius and centre of the disc in each frame, in pixels."""
    radius, y = rng.uniform(6, 8), rng.uniform(10, SIZE - 10)
    radii, xs = np.full(FRAMES, radius), np.full(FRAMES, rng.uniform(10, SIZE - 10))
    time = np.linspace(0, 1, FRAMES)
    if motion in ('grow', 'shrink'):
        radii = rng.uniform(3, 4) + time * rng.uniform(7, 9)
    else:
        xs = rng.uniform(3, 6) + time * rng.uniform(20, 24)
    if motion in ('left', 'shrink'):
        radii, xs = radii[::-1], xs[::-1]
    return radii, xs, np.full(FRAMES, y)


def paste(background: np.ndarray, texture: Image.Image, radius: float, x: float, y: float) -> np.ndarray:
    """A frame: the texture, scaled to the disc, before the background."""
    side = max(2, round(2 * radius))
    left, top = round(x - side / 2), round(y - side / 2)
    disc = np.asarray(texture.resize((side, side), Image.Resampling.BILINEAR), np.float32)
    at = np.arange(side) + .5 - side / 2
    alpha = np.clip(side / 2 + .5 - np.hypot(at[:, None], at), 0, 1)[..., None]
    frame = background.astype(np.float32)
    inside = tuple(slice(max(0, first), min(SIZE, first + side)) for first in (top, left))
    part = tuple(slice(s.start - first, s.stop - first) for s, first in zip(inside, (top, left)))
    frame[inside] += alpha[part] * (disc[part] - frame[inside])
    return frame.round().astype(np.uint8)


def write_video(path: Path, frames: np.ndarray) -> None:
    """Writes frames, each by itself as a JPEG, in an AVI file.

    Raises:
        OSError: if that cannot be done.
    """
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 12, (SIZE, SIZE))
    if not writer.isOpened():
        raise OSError(f'OpenCV cannot write {path}')
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()


if __name__ == '__main__':
    sys.exit(main())
