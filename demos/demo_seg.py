#!/usr/bin/env python3
"""Trains UperNet with a small SwinV2 on a small data set in ADE20K's format, tests it and draws: ``make demo-seg``.

It runs what a user would type: ``mim train mmseg CONFIG`` with windows of 8 tokens, then ``mim test mmseg CONFIG
--checkpoint FILE`` with windows of 8, 12 and 16 (``--cfg-options model.backbone.window_size=12``), and with ``--tta``.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from demo import ROOT, run
from sheets import LETTERS, LINE, with_legend

CONFIG = 'configs/mmseg/upernet_swinv2_mini.py'
# name of the row, and options
TESTS = {'window 8': [], 'window 8, TTA': ['--tta'], 'window 12': ['--cfg-options', 'model.backbone.window_size=12'],
         'window 16': ['--cfg-options', 'model.backbone.window_size=16']}
BOUND = 60.  # mIoU in percent that a run is expected to reach
METRICS = ('mIoU', 'mAcc', 'aAcc')


def main() -> int:
    """Runs the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seed', type=int, default=0, help='seed of the data set (default 0)')
    parser.add_argument('--work-dir', type=Path, help='results (default work_dirs/demo_seg, or demo_seg_SEED)')
    args = parser.parse_args()
    start = time.time()
    given = args.work_dir and args.work_dir.absolute()
    os.chdir(ROOT)
    suffix = f'_{args.seed}' if args.seed else ''
    data = Path(f'data/mini_ade20k{suffix}')
    work_dir = given or Path(f'work_dirs/demo_seg{suffix}')
    work_dir.mkdir(parents=True, exist_ok=True)
    os.environ['MMSWINV2_MINI_ADE20K'] = f'{data}/'

    steps = 3 + len(TESTS)
    try:
        say(f'1 of {steps}: the data set, {data}')
        run([sys.executable, 'demos/make_mini_ade20k.py', str(data), '--seed', str(args.seed)], work_dir / 'data.log')
        say(f'2 of {steps}: mim train mmseg {CONFIG}')
        run(['mim', 'train', 'mmseg', CONFIG, '--work-dir', str(work_dir)], work_dir / 'train.log', progress=True)
        checkpoint = Path((work_dir / 'last_checkpoint').read_text().strip())
        rows = {}
        for step, (name, options) in enumerate(TESTS.items(), 3):
            say(f'{step} of {steps}: {" ".join(["mim test mmseg", CONFIG, "--checkpoint", checkpoint.name, *options])}')
            folder = work_dir / name.replace(', ', '_').replace(' ', '_')
            run(['mim', 'test', 'mmseg', CONFIG, '--checkpoint', str(checkpoint), '--work-dir', str(folder),
                 '--out', str(folder / 'predictions'), *options], work_dir / f'{folder.name}.log')
            metrics = json.loads(max(folder.glob('*/*.json'), key=os.path.getmtime).read_text())
            rows[name] = [metrics[key] for key in METRICS]
    except subprocess.CalledProcessError:
        return 1
    say(f'{steps} of {steps}: pictures of held-out images')
    picture = work_dir / 'predictions.png'
    draw(data, work_dir / 'window_8_TTA' / 'predictions', picture)

    print('\nOn held-out images, percent; trained with window 8; TTA: three scales and flips\n')
    print(' ' * 14 + ''.join(f'{name:>9}' for name in METRICS))
    for name, row in rows.items():
        print(f'{name:14}' + ''.join(f'{value:9.2f}' for value in row))
    print(f'\nimage, ground truth and prediction: {picture}')
    say(f'done in {time.time() - start:.0f} s')
    if rows['window 8'][0] < BOUND:
        print(f'demo-seg: mIoU is below {BOUND}, which this demo is expected to reach', file=sys.stderr)
        return 1
    return 0


def draw(data: Path, predictions: Path, picture: Path, *, images: int = 6, scale: int = 2) -> None:
    """Draws images, their labels and predictions side by side.

    Args:
        data: A data set of ``make_mini_ade20k.py``.
        predictions: Folder with mmseg's label images.
        picture: PNG to write.
        images: How many.
        scale: Picture pixels per pixel.
    """
    import numpy as np
    from PIL import Image, ImageDraw

    from make_mini_ade20k import CLASSES
    colours = np.zeros((256, 3))
    for label, _, colour, _ in CLASSES.values():
        colours[label] = colour
    rows = []
    for path in sorted((data / 'images' / 'validation').glob('*.jpg'))[:images]:
        image = Image.open(path)
        panels = [np.asarray(image, dtype=np.float64)]
        for folder in (data / 'annotations' / 'validation', predictions):
            labels = np.asarray(Image.open(folder / f'{path.stem}.png'))
            panels.append(.25 * panels[0] + .75 * colours[labels])
        row = np.concatenate(panels, 1).clip(0, 255).astype(np.uint8)
        rows.append(Image.fromarray(row).resize((row.shape[1] * scale, row.shape[0] * scale)))
    columns = 2
    width, height = max(r.width for r in rows) + 8, max(r.height for r in rows) + 8 + LINE
    sheet = Image.new('RGB', (columns * width, -(-len(rows) // columns) * height), 'white')
    pen = ImageDraw.Draw(sheet)
    for n, row in enumerate(rows):
        x, y = (n % columns) * width, n // columns * height
        sheet.paste(row, (x, y + LINE))
        for i, title in enumerate(('image', 'ground truth', 'prediction')):
            pen.text((x + i * row.width // 3 + 2, y + 3), title, fill='black', font_size=LETTERS)
    named = {name: colour for name, (_, _, colour, _) in CLASSES.items()}
    with_legend(sheet, {**named, 'not labelled': (0, 0, 0)}).save(picture)


def say(text: str) -> None:
    """Prints a line at once."""
    print(f'demo-seg: {text}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
