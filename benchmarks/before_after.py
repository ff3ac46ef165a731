#!/usr/bin/env python3
"""Two checkouts of this project beside each other: time and peak memory of the backbone and of one block.

Each step runs in a fresh process with the code of its checkout, and with models made by that checkout's own benchmarks;
the two take turns. Times are medians over rounds, of the median of a few steps after one other. Peaks are the most that
other processes, one for each row, had resident above what they had after a step with another model of that size; the C
library gives what they free back at once.

Example::

    git worktree add ../before 37a3de4
    python benchmarks/before_after.py --before ../before --out benchmarks/results/before_after_cpu.md
"""
from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BACKBONES = ((256, 8, 9), (512, 16, 3), (768, 24, 1))  # pixels, window, steps
BLOCKS = ((96, 16, 5), (192, 32, 3))  # tokens along each side, window, steps


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--before', help='the other checkout (required)')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--out', help='a Markdown file')
    parser.add_argument('--child', nargs=6, metavar=('CHECKOUT', 'WHAT', 'SIZE', 'WINDOW', 'STEPS', 'MODE'),
                        help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        checkout, what, *numbers, mode = args.child
        print(json.dumps(child(Path(checkout), what, *map(int, numbers), mode, args.threads)))
        return
    if args.before is None:
        parser.error('--before must be the path of another checkout, got none')
    import torch

    import measure
    torch.set_num_threads(args.threads)
    checkouts = Path(args.before).resolve(), HERE.parent
    rows = []
    for what, cases in (('backbone', BACKBONES), ('block', BLOCKS)):
        for size, window, steps in cases:
            for mode in ('forward', 'training'):
                end = mode, '--threads', args.threads
                rounds = [[measure.in_fresh_process(__file__, checkout, what, size, window, steps, *end)['seconds']
                           for checkout in checkouts] for _ in range(args.rounds)]
                t0, t1 = map(measure.median, zip(*rounds))
                m0, m1 = (measure.in_fresh_process(__file__, checkout, what, size, window, 0, *end,
                                                   returned=True)['above'] for checkout in checkouts)
                unit = 'px' if what == 'backbone' else 'tokens'
                rows.append([f'{what}, {size} {unit}, window {window}, {mode}', f'{t0:.3g}', f'{t1:.3g}',
                             f'{t0 / t1:.2f}', f'{m0 / 2**20:.0f}', f'{m1 / 2**20:.0f}', f'{m0 / m1:.2f}'])
    parts = [f'SwinV2-T and a block of C = 96 with 3 heads, shifted; batch 1, float32, {args.rounds} rounds, no '
             f'activation checkpointing.\n',
             measure.table(['', 'before s', 'after s', 'times as fast', 'before MiB', 'after MiB', 'times as small'],
                           rows)]
    measure.report('Before and after', parts, args.out)


def child(checkout: Path, what: str, size: int, window: int, steps: int, mode: str, threads: int) -> dict:
    """Steps in a fresh process, with the code of ``checkout``: seconds of one, or without steps the peak."""
    import measure  # ours, also for the other checkout
    sys.path[:0] = [str(checkout), str(checkout / 'benchmarks')]
    import torch

    import mmswinv2
    theirs = importlib.import_module('attention' if what == 'block' else 'backbone')
    for module in (mmswinv2, theirs):
        assert Path(module.__file__ or '').is_relative_to(checkout), module
    torch.set_num_threads(threads)
    torch.randn(512, 512) @ torch.randn(512, 512)
    measure.settle_allocator()
    if not steps:
        make(theirs, size, window, mode)()  # what libraries keep for themselves
    before = measure.resident('VmRSS')
    measure.forget_peak()
    step = make(theirs, size, window, mode)
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        kept = step()
        seconds.append(time.perf_counter() - start)
        del kept
    return dict(seconds=measure.median(seconds[1:] or seconds), above=measure.resident('VmHWM') - before)


def make(theirs: Any, size: int, window: int, mode: str) -> Callable[[], object]:
    """A step, made by the benchmark of a checkout."""
    import torch
    if theirs.__name__ == 'attention':
        args = argparse.Namespace(dim=96, heads=3, window=window, batch=1)
        return theirs.step(theirs.build('auto', args, size), torch.randn(1, size, size, 96), mode)
    model = theirs.build(argparse.Namespace(arch='tiny', size=size, window=[window], plain=True, backend='auto',
                                            pretrained_window=[12, 12, 12, 6]), 'ours', mode)
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))

    def step():
        model.zero_grad()
        if mode == 'forward':
            with torch.no_grad():
                return model(x)
        return sum(out.float().square().mean() for out in model(x)).backward()
    return step


if __name__ == '__main__':
    main()
