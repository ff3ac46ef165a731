#!/usr/bin/env python3
"""Where whole attention maps are faster than cells on a CPU: ``eager`` beside ``cells``, over windows and maps.

Shifted windows, float32, the operator alone. Runs are interleaved; times are medians, ratios medians of ratios within a
round. The last column is what ``auto`` takes: it goes by the bytes of all attention maps.
"""
from __future__ import annotations

import argparse

import torch

import measure
from mmswinv2.core.attention import Problem, choose, window_attention
from mmswinv2.core.grid import Axis

# window, tokens along each side, heads of 32 channels, images
CASES = [(4, 64, 3, 1), (7, 56, 3, 1), (8, 64, 3, 1), (8, 16, 12, 1), (8, 64, 3, 8), (12, 72, 3, 1), (12, 24, 12, 1),
         (16, 64, 3, 1), (16, 32, 12, 1), (16, 128, 3, 1), (24, 48, 12, 1), (24, 96, 3, 1), (32, 96, 3, 1)]


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, nargs='+', default=[1, 2])
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--out', help='a Markdown file')
    args = parser.parse_args()
    parts = [__doc__.split('\n\n', 1)[1]]
    for threads in args.threads:
        torch.set_num_threads(threads)
        rows = [measured(*case, args.repeats) for case in CASES]
        parts += [f'## {threads} thread{"s" * (threads > 1)}\n', measure.table(
            ['window', 'map', 'heads', 'images', 'maps MiB', 'forward ms, eager', 'cells', 'eager / cells',
             'training ms, eager', 'cells', 'eager / cells', 'auto'], rows)]
    measure.report('Crossover of eager and cells', parts, args.out)


def measured(window: int, side: int, heads: int, batch: int, repeats: int) -> list:
    """A row of the table."""
    torch.manual_seed(0)
    grid = (Axis.fit(side, window, shifted=True),) * 2
    tensors = (torch.randn(batch, side, side, 96 * heads).requires_grad_(),
               torch.randn(heads, 2 * window - 1, 2 * window - 1).requires_grad_(),
               torch.full((heads, 1, 1), 2.3).requires_grad_())
    probe = torch.randn(batch, side, side, 32 * heads)
    problem = Problem(*tensors, grid)

    def attend(backend: str) -> torch.Tensor:
        return window_attention(*tensors, window=[window] * 2, shift=[axis.shift for axis in grid], backend=backend)

    def forward(backend: str) -> None:
        with torch.no_grad():
            attend(backend)

    row = [window, f'{side} x {side}', heads, batch, f'{problem.map_bytes / measure.MIB:.1f}']
    for call in (forward, lambda backend: torch.autograd.grad(attend(backend), tensors, probe)):
        seconds = measure.interleaved({name: lambda name=name: call(name) for name in ('eager', 'cells')}, repeats)
        row += [f'{1000 * measure.median(seconds[name]):.1f}' for name in ('eager', 'cells')]
        row.append(f'{measure.median([a / b for a, b in zip(seconds["eager"], seconds["cells"])]):.2f}')
    return [*row, choose(problem).name]


if __name__ == '__main__':
    main()
