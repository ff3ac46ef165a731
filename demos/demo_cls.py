#!/usr/bin/env python3
"""Trains a small classifier with each of two position biases and tests both at larger windows: ``make demo-cls``.

This is the paper's Table 1 in miniature: log-spaced continuous position bias beside a table that is resized. Both are
trained at once, by ``mim train mmpretrain CONFIG`` on one thread each; ``benchmarks/window_transfer.py`` tests them.
The data are those of ``demos/make_mini_imagenet.py``: Fashion-MNIST where its files are, else crops of photographs.
"""
from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from demo import ROOT, run
from window_transfer import RATIOS, table, transfer

CONFIGS = {'swinv2_mini': 'log-CPB', 'swinv2_parameterized_mini': 'parameterised'}
BOUND = 65.  # top-1 accuracy in percent at the window of training, which both are expected to reach


def main() -> int:
    """Runs the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seed', type=int, default=0, help='of data set and training (default 0)')
    parser.add_argument('--work-dir', type=Path, help='results (default work_dirs/demo_cls, or demo_cls_SEED)')
    parser.add_argument('--fashion-mnist', help='folder with its four files')
    parser.add_argument('--photographs', action='store_true', help='crops of photographs in any case')
    args = parser.parse_args()
    start = time.time()
    given = args.work_dir and args.work_dir.absolute()
    source = ['--photographs'] if args.photographs else []
    if args.fashion_mnist:
        source += ['--fashion-mnist', str(Path(args.fashion_mnist).absolute())]
    os.chdir(ROOT)
    suffix = ('_photographs' if args.photographs else '') + (f'_{args.seed}' if args.seed else '')
    data = Path(f'data/mini_imagenet{suffix}')
    work_dir = given or Path(f'work_dirs/demo_cls{suffix}')
    work_dir.mkdir(parents=True, exist_ok=True)
    os.environ['MMSWINV2_MINI_IMAGENET'] = f'{data}/'
    try:
        say(f'1 of 3: the data set, {data}')
        run([sys.executable, 'demos/make_mini_imagenet.py', str(data), '--seed', str(args.seed), *source],
            work_dir / 'data.log')
        print('   ' + (work_dir / 'data.log').read_text().strip().replace('\n', '\n   '))
        say('2 of 3: mim train mmpretrain configs/mmpretrain/{' + ','.join(CONFIGS) + '}.py, both at once')
        with ThreadPoolExecutor() as pool:
            models = list(pool.map(lambda name: train(name, work_dir / name, args.seed), CONFIGS))
        say('3 of 3: tests at 1, 1.5, 2, 2.5 and 3 times the window and size')
        rows = transfer(models, list(RATIOS), work_dir / 'transfer', jobs=2)
    except subprocess.CalledProcessError:
        return 1
    print(f'\n{table(rows)}\ncurves: {work_dir}/transfer/curves.png')
    say(f'done in {time.time() - start:.0f} s')
    low = {name: row for name, row in rows.items() if next(iter(row.values())) < BOUND}
    for name, row in low.items():
        print(f'demo-cls: {name} must reach {BOUND} % at the window of training, got {next(iter(row.values())):.1f}',
              file=sys.stderr)
    return int(bool(low))


def train(name: str, folder: Path, seed: int) -> str:
    """Trains a config; returns ``CONFIG=CHECKPOINT``."""
    folder.mkdir(parents=True, exist_ok=True)
    config = f'configs/mmpretrain/{name}.py'
    run(['mim', 'train', 'mmpretrain', config, '--work-dir', str(folder), '--cfg-options', f'randomness.seed={seed}'],
        folder / 'train.log', progress=True, label=f'{CONFIGS[name]:13} ', threads=1)
    return f'{config}={(folder / "last_checkpoint").read_text().strip()}'


def say(text: str) -> None:
    """Prints a line at once."""
    print(f'demo-cls: {text}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
