#!/usr/bin/env python3
"""Attention with whole maps (``eager``) beside attention within a budget (``cells``), by size of cell: where which is
faster, and which of the two ``auto`` takes.

The operator alone is timed, on shifted square maps of ``--windows`` windows a side, without the projections around it.
Runs are interleaved; times are medians, and a ratio is the median of the ratios of neighbouring runs.
"""
from __future__ import annotations

import argparse

import torch

import measure
from mmswinv2.core.attention import Problem, choose, window_attention
from mmswinv2.core.attention.backends import default_budget, map_bytes
from mmswinv2.core.grid import Axis

NAMES = ('eager', 'cells')


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--window', type=int, nargs='+', default=[4, 7, 8, 12, 16, 24, 32], help='tokens a side')
    parser.add_argument('--windows', type=int, nargs='+', default=[2, 4], help='of a map, a side')
    parser.add_argument('--channels', type=int, nargs='+', default=[96, 384], help='32 to a head')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--threads', type=int, nargs='+', default=[1, 2])
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--max-maps', type=int, default=512, help='MiB of attention maps; larger cases are left out')
    parser.add_argument('--out', help='a Markdown file')
    args = parser.parse_args()
    head = ['C', 'window', 'map', 'maps MiB', 'auto', *(f'{mode} {what}' for mode in ('forward', 'training')
                                                        for what in ('eager ms', 'cells ms', 'eager / cells'))]
    parts = [f'Attention of {args.batch} map{"s" if args.batch > 1 else ""}, shifted by half a window, heads of 32 '
             'channels, float32. `maps`: all attention maps; `auto`: what it takes within '
             f'{default_budget(torch.device("cpu")) // measure.MIB} MiB. A ratio above 1: `cells` is faster.\n']
    for threads in args.threads:
        torch.set_num_threads(threads)
        rows = [row for dim in args.channels for window in args.window for count in args.windows
                if (row := case(args, dim, window, window * count)) is not None]
        parts += [f'## {threads} thread{"s" if threads > 1 else ""}\n', measure.table(head, rows)]
    measure.report('Whole attention maps beside cells', parts, args.out)


def case(args: argparse.Namespace, dim: int, window: int, size: int) -> list[object] | None:
    """A line of the table, or None where maps are too large."""
    torch.manual_seed(0)
    heads = dim // 32
    qkv = torch.randn(args.batch, size, size, 3 * dim)
    table, scale = torch.randn(heads, 2 * window - 1, 2 * window - 1), torch.full((heads, 1, 1), 2.3)
    problem = Problem(qkv, table, scale, (Axis.fit(size, window, shifted=True),) * 2,
                      budget=default_budget(qkv.device))
    if map_bytes(problem) > args.max_maps * measure.MIB:
        return None
    row = [dim, window, f'{size} x {size}', f'{map_bytes(problem) / measure.MIB:.1f}', choose(problem).name]
    for mode in ('forward', 'training'):
        seconds = measure.interleaved({name: step(problem, name, mode) for name in NAMES}, args.repeats)
        ratios = [eager / cells for eager, cells in zip(*(seconds[name] for name in NAMES))]
        row += [*(f'{1000 * measure.median(seconds[name]):.2f}' for name in NAMES), f'{measure.median(ratios):.2f}']
    return row


def step(problem: Problem, name: str, mode: str):
    """What is timed."""
    training = mode == 'training'
    inputs = [x.clone().requires_grad_(training) for x in (problem.qkv, problem.table, problem.logit_scale)]
    window, shift = [axis.window for axis in problem.grid], [axis.shift for axis in problem.grid]
    probe = torch.randn(*problem.qkv.shape[:-1], problem.qkv.shape[-1] // 3)

    def call():
        with torch.set_grad_enabled(training):
            out = window_attention(*inputs, window=window, shift=shift, backend=name, budget=problem.budget)
        return torch.autograd.grad(out, inputs, probe) if training else out
    return call


if __name__ == '__main__':
    main()
