#!/usr/bin/env python3
"""Trains a small SwinV2 on stills, inflates it, trains it on clips and tests it in several ways: ``make demo-video``.

It runs what a user would type: ``mim train mmpretrain configs/mmpretrain/swinv2_stills_mini.py``, then ``mim train``
and ``mim test mmaction2 configs/mmaction2/video_swinv2_mini.py``. The data are those of ``demos/make_mini_clips.py``;
the control is the same clips with their frames shuffled.
"""
from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demo import ROOT, run
from make_mini_clips import CLASSES, MOTIONS

STILLS = 'configs/mmpretrain/swinv2_stills_mini.py'
VIDEO = 'configs/mmaction2/video_swinv2_mini.py'
LONGER = ['test_dataloader.dataset.pipeline.1.clip_len=12', 'model.backbone.window_size=[[3,4,4],[3,4,4],[3,2,2]]']
# name: config, options
TESTS = {
    '8 frames, window 2 in time': (VIDEO, []),
    'the same, frames shuffled': ('configs/mmaction2/video_swinv2_shuffled_mini.py', []),
    '12 frames, window 3 in time': (VIDEO, LONGER),
    '4 x 5 views': ('configs/mmaction2/video_swinv2_4x5_mini.py', []),
}
BOUND = 15.  # points of accuracy by which frames in order are expected to be better than shuffled ones
CLIPS, FRAMES, SCALE = 8, 6, 3  # drawn, and picture pixels per pixel


@dataclass(frozen=True)
class Result:
    """Scores (N, classes) of N clips, and their labels (N,)."""

    scores: np.ndarray
    labels: np.ndarray

    def accuracies(self) -> list[float]:
        """Of the class, of what is seen, of what it does; in percent."""
        found, n = self.scores.argmax(1), len(MOTIONS)
        pairs = ((found, self.labels), (found // n, self.labels // n), (found % n, self.labels % n))
        return [100 * float((a == b).mean()) for a, b in pairs]


def main() -> int:
    """Runs the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seed', type=int, default=0, help='of data set and training (default 0)')
    parser.add_argument('--work-dir', type=Path, help='results (default work_dirs/demo_video, or demo_video_SEED)')
    args = parser.parse_args()
    start = time.time()
    given = args.work_dir and args.work_dir.absolute()
    os.chdir(ROOT)
    suffix = f'_{args.seed}' if args.seed else ''
    data = Path(f'data/mini_clips{suffix}')
    work_dir = given or Path(f'work_dirs/demo_video{suffix}')
    work_dir.mkdir(parents=True, exist_ok=True)
    os.environ['MMSWINV2_MINI_CLIPS'] = f'{data}/'
    seed = f'randomness.seed={args.seed}'
    try:
        say(f'1 of 5: the data set, {data}')
        run([sys.executable, 'demos/make_mini_clips.py', str(data), '--seed', str(args.seed)], work_dir / 'data.log')
        say(f'2 of 5: mim train mmpretrain {STILLS}')
        stills = train('mmpretrain', STILLS, work_dir / 'stills', [seed])
        say(f'3 of 5: mim train mmaction2 {VIDEO}, from these weights, inflated')
        clips = train('mmaction2', VIDEO, work_dir / 'clips', [seed, f'model.backbone.init_cfg.checkpoint={stills}'])
        say(f'4 of 5: mim test mmaction2 {VIDEO}, in {len(TESTS)} ways')
        with ThreadPoolExecutor(2) as pool:
            results = dict(zip(TESTS, pool.map(lambda name: test(name, clips, work_dir / 'tests'), TESTS)))
    except subprocess.CalledProcessError:
        return 1
    say('5 of 5: a strip of frames of held-out clips, with predictions')
    draw(data, next(iter(results.values())), work_dir / 'predictions.png')
    print(f'\naccuracy on {len(results[next(iter(TESTS))].labels)} held-out clips, %'
          f'{"class":>16}{"what it is":>12}{"what it does":>14}')
    rows = {name: result.accuracies() for name, result in results.items()}
    for name, (both, item, motion) in rows.items():
        print(f'{name:36}{both:11.1f}{item:12.1f}{motion:14.1f}')
    print(f'chance{100 / len(CLASSES):41.1f}{100 * len(MOTIONS) / len(CLASSES):12.1f}{100 / len(MOTIONS):14.1f}')
    print(f'\nframes of held-out clips: {work_dir}/predictions.png')
    say(f'done in {time.time() - start:.0f} s')
    (ordered, *_), (shuffled, *_) = list(rows.values())[:2]
    if ordered < shuffled + BOUND:
        print(f'demo-video: frames in order must be {BOUND:g} points better than shuffled ones, got {ordered:.1f} and '
              f'{shuffled:.1f} %', file=sys.stderr)
        return 1
    return 0


def train(host: str, config: str, folder: Path, options: list[str]) -> str:
    """Trains on one thread, for another process decodes clips; returns the checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    run(['mim', 'train', host, config, '--work-dir', str(folder), '--cfg-options', *options], folder / 'train.log',
        progress=True, threads=1)
    return (folder / 'last_checkpoint').read_text().strip()


def test(name: str, checkpoint: str, folder: Path) -> Result:
    """Tests in one of the ways, on one thread."""
    config, options = TESTS[name]
    folder = folder / name.replace(' ', '_').replace(',', '')
    folder.mkdir(parents=True, exist_ok=True)
    command = ['mim', 'test', 'mmaction2', config, '--checkpoint', checkpoint, '--work-dir', str(folder), '--dump',
               str(folder / 'scores.pkl')]
    run([*command, '--cfg-options', *options] if options else command, folder / 'test.log', threads=1)
    samples = pickle.loads((folder / 'scores.pkl').read_bytes())  # written by the line above
    return Result(np.stack([np.asarray(sample['pred_score']) for sample in samples]),
                  np.array([int(sample['gt_label']) for sample in samples]))


def draw(data: Path, result: Result, picture: Path) -> None:
    """Draws some frames of clips, a row each, with the true class and the predicted one.

    Args:
        data: A data set of ``make_mini_clips.py``.
        result: Of its validation clips, in their order.
        picture: PNG to write.
    """
    import cv2
    from PIL import Image, ImageDraw

    names = [line.split()[0] for line in (data / 'val.txt').read_text().splitlines()]
    chosen = [i * len(names) // CLIPS + i for i in range(CLIPS)]  # of different classes
    rows, caption = [], 250
    for i in chosen:
        reader, frames = cv2.VideoCapture(str(data / 'val' / names[i])), []
        while (read := reader.read())[0]:
            frames.append(read[1][..., ::-1])
        strip = np.concatenate([frames[j * (len(frames) - 1) // (FRAMES - 1)] for j in range(FRAMES)], 1)
        strip = Image.fromarray(strip.repeat(SCALE, 0).repeat(SCALE, 1))
        row = Image.new('RGB', (strip.width + caption, strip.height + 4), 'white')
        row.paste(strip)
        pen, found, truth = ImageDraw.Draw(row), int(result.scores[i].argmax()), int(result.labels[i])
        pen.text((strip.width + 8, 20), CLASSES[truth], fill='black', font_size=20)
        pen.text((strip.width + 8, 52), f'{CLASSES[found]} {result.scores[i][found]:.2f}', font_size=20,
                 fill=(0, 120, 0) if found == truth else (200, 0, 0))
        rows.append(np.asarray(row))
    Image.fromarray(np.concatenate(rows)).save(picture)


def say(text: str) -> None:
    """Prints a line at once."""
    print(f'demo-video: {text}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
