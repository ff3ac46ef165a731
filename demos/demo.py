#!/usr/bin/env python3
"""Trains HTC++ with a small SwinV2 on a small instance data set, tests it and draws what it sees: ``make demo``.

It runs what a user would type: ``mim train mmdet CONFIG``, then ``mim test mmdet CONFIG --checkpoint FILE``, then that
with ``--tta``; on the maintained forks ``mmdetection`` instead of ``mmdet``.
"""
from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from mmswinv2.hosts import mim_name, without_traceback_of_mim
from sheets import COLOURS, LETTERS, LINE, with_legend

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / 'benchmarks'))  # for demos that end in one
CONFIG = 'configs/mmdet/htc_swinv2_mini.py'
PROGRESS = re.compile(r'Iter\((train|test)\) +(\[ *\d+/\d+\]).*?(eta: [\d:]+)(?:.* loss: ([\d.]+))?')
TESTS = dict(test=[], tta=['--tta'])  # folder and options of each
BOUND = .70  # AP50 of boxes and of masks that a run is expected to reach
SIZES = (('AP', 'mAP'), ('AP50', 'mAP_50'), ('AP75', 'mAP_75'), ('AP small', 'mAP_s'), ('AP medium', 'mAP_m'),
         ('AP large', 'mAP_l'))


def main() -> int:
    """Runs the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seed', type=int, default=0, help='seed of the data set (default 0)')
    parser.add_argument('--work-dir', type=Path, help='results (default work_dirs/demo, or demo_SEED)')
    args = parser.parse_args()
    start = time.time()
    given = args.work_dir and args.work_dir.absolute()
    os.chdir(ROOT)
    suffix = f'_{args.seed}' if args.seed else ''
    data = Path(f'data/mini_coco{suffix}')
    work_dir = given or Path(f'work_dirs/demo{suffix}')
    work_dir.mkdir(parents=True, exist_ok=True)
    os.environ['MMSWINV2_MINI_COCO'] = f'{data}/'

    try:
        say(f'1 of 5: the data set, {data}')
        run([sys.executable, 'demos/make_mini_coco.py', str(data), '--seed', str(args.seed)], work_dir / 'data.log')
        host = mim_name('mmdet')
        say(f'2 of 5: mim train {host} {CONFIG}')
        run(['mim', 'train', host, CONFIG, '--work-dir', str(work_dir)], work_dir / 'train.log', progress=True)
        checkpoint = Path((work_dir / 'last_checkpoint').read_text().strip())
        rows = {}
        for step, (name, options) in enumerate(TESTS.items(), 3):
            say(f'{step} of 5: {" ".join(["mim test", host, CONFIG, "--checkpoint", checkpoint.name, *options])}')
            folder = work_dir / name
            results = folder / 'results'
            run(['mim', 'test', host, CONFIG, '--checkpoint', str(checkpoint), '--work-dir', str(folder), *options,
                 '--cfg-options', f'test_evaluator.outfile_prefix={results}'], work_dir / f'{name}.log', progress=True)
            metrics = json.loads(max(folder.glob('*/*.json'), key=os.path.getmtime).read_text())
            for kind, text in (('bbox', 'box'), ('segm', 'mask')):
                rows[f'{text}{", TTA" if options else ""}'] = [metrics[f'coco/{kind}_{key}'] for _, key in SIZES]
    except subprocess.CalledProcessError:
        return 1
    say('5 of 5: pictures of held-out images')
    picture = work_dir / 'predictions.png'
    draw(data, results, picture)

    print('\nCOCO metrics on held-out images; TTA: three scales and flips\n')
    print(' ' * 10 + ''.join(f'{name:>11}' for name, _ in SIZES))
    for name in sorted(rows):
        print(f'{name:10}' + ''.join(f'{value:11.3f}' for value in rows[name]))
    print(f'\nground truth beside predictions with TTA: {picture}')
    say(f'done in {time.time() - start:.0f} s')
    if min(rows['box'][1], rows['mask'][1]) < BOUND:
        print(f'demo: AP50 is below {BOUND}, which this demo is expected to reach', file=sys.stderr)
        return 1
    return 0


def run(command: list[str], log: Path, *, progress: bool = False, label: str = '', threads: int | None = None) -> None:
    """Runs a command with its output in a log; with ``progress``, shows its progress lines.

    Args:
        command: What a user would type.
        log: File of its output.
        progress: Whether progress is shown.
        label: What its lines begin with.
        threads: Of torch; None for what is set.

    Raises:
        CalledProcessError: if it fails; the end of its output has been printed then, and of it the reason last.
    """
    env = dict(os.environ, PATH=f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}',
               PYTHONWARNINGS='ignore', **{} if threads is None else dict(OMP_NUM_THREADS=str(threads)))
    lines = []
    with log.open('w') as out, subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                                text=True) as process:
        for line in process.stdout:
            lines.append(line)
            out.write(line)
            found = PROGRESS.search(line)
            if progress and found:
                mode, step, eta, loss = found.groups()
                print(f'   {label}{mode} {step}  {eta}' + (f'  loss: {loss}' if loss else ''), flush=True)
    if process.returncode:
        output = without_traceback_of_mim(''.join(lines))
        log.write_text(output)
        print(f'demo: {" ".join(command)} failed with exit code {process.returncode}; its output is in {log} and ends:',
              *output.splitlines()[-30:], sep='\n', file=sys.stderr)
        raise subprocess.CalledProcessError(process.returncode, command)


def draw(data: Path, results: Path, picture: Path, *, images: int = 6, score: float = .5, scale: int = 2) -> None:
    """Draws ground truth (left) beside predictions (right), with scores, for the images with most objects.

    Args:
        data: A data set of ``make_mini_coco.py``.
        results: Prefix of mmdet's result files.
        picture: PNG to write.
        images: How many.
        score: Least score of a prediction that is drawn.
        scale: Picture pixels per pixel.
    """
    import numpy as np
    from PIL import Image, ImageDraw
    from pycocotools import mask as rle

    coco = json.loads((data / 'annotations' / 'instances_val.json').read_text())
    names = {c['id']: c['name'] for c in coco['categories']}
    predictions = json.loads(Path(f'{results}.segm.json').read_text())
    truth: dict = {}
    for ann in coco['annotations']:
        truth.setdefault(ann['image_id'], []).append(ann)
    chosen = sorted(coco['images'], key=lambda i: -len(truth.get(i['id'], [])))[:images]
    width, height = (max(i[k] for i in chosen) * scale for k in ('width', 'height'))
    columns, caption = 2, LINE
    cell = (2 * width + 12, height + caption)
    sheet = Image.new('RGB', (columns * cell[0], -(-len(chosen) // columns) * cell[1]), 'white')

    def panel(info: dict, objects: list) -> Image.Image:
        image = Image.open(data / 'val' / info['file_name']).resize((info['width'] * scale, info['height'] * scale))
        pixels = np.asarray(image, dtype=np.float64).copy()
        for mask, category, _ in objects:
            mask = mask.repeat(scale, 0).repeat(scale, 1).astype(bool)
            pixels[mask] = .55 * pixels[mask] + .45 * np.array(COLOURS[category - 1])
        image = Image.fromarray(pixels.astype(np.uint8))
        pen = ImageDraw.Draw(image)
        for mask, category, text in objects:
            ys, xs = np.nonzero(mask)
            if len(xs):
                box = [xs.min() * scale, ys.min() * scale, (xs.max() + 1) * scale, (ys.max() + 1) * scale]
                pen.rectangle([int(v) for v in box], outline=COLOURS[category - 1], width=2)
                pen.text((int(box[0]) + 4, int(box[1]) + 1), text, fill='white', stroke_width=2, stroke_fill='black',
                         font_size=LETTERS)
        return image

    for n, info in enumerate(chosen):
        size = (info['height'], info['width'])
        annotated = [(rle.decode(rle.merge(rle.frPyObjects(a['segmentation'], *size))), a['category_id'], '')
                     for a in truth.get(info['id'], [])]
        predicted = [(rle.decode(p['segmentation']), p['category_id'], f'{p["score"]:.2f}')
                     for p in predictions if p['image_id'] == info['id'] and p['score'] >= score]
        x, y = (n % columns) * cell[0], (n // columns) * cell[1]
        pen = ImageDraw.Draw(sheet)
        for i, (title, objects) in enumerate((('ground truth', annotated), ('predictions', predicted))):
            pen.text((x + i * (width + 4) + 2, y + 3), title, fill='black', font_size=LETTERS)
            sheet.paste(panel(info, objects), (x + i * (width + 4), y + caption))
    with_legend(sheet, {name: COLOURS[category - 1] for category, name in names.items()}).save(picture)


def say(text: str) -> None:
    """Prints a line at once."""
    print(f'demo: {text}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
