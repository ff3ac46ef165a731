#!/usr/bin/env python3
"""Draws the position bias that a checkpoint has learnt, per head, and what becomes of it at larger windows.

A continuous bias (log-CPB, linear) is a function: a larger window asks it further out. Beside that, and for a
parameterised one alone, is the table of the first window resized bicubically; beside log-CPB also what the same network
of linear coordinates gives, which is fitted here to the learnt bias of the first window. How much further out a larger
window asks is printed: the range of coordinates beyond that of pre-training, over that of pre-training.

    python benchmarks/plot_position_bias.py work_dirs/mini_cls/iter_900.pth --stage 1 --windows 4 8 12 --out bias.png
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from mmswinv2.core import SwinTransformerV2
from mmswinv2.core.position_bias import ContinuousBias, relative_coordinates, resize
from mmswinv2.core.weights import check_complete, load_backbone, read_backbone_state
from mmswinv2.engine import read_run

KINDS = dict(log_cpb='log-CPB', linear_cpb='linear CPB', parameterized='parameterised')
MOST_HEADS = 6
FIT_STEPS = 500


def main(argv: list[str] | None = None) -> int:
    """Reads the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='in any known layout')
    parser.add_argument('--stage', type=int, default=0)
    parser.add_argument('--block', type=int, default=0)
    parser.add_argument('--windows', type=int, nargs='+', help='tokens a side (default that of pre-training, and twice '
                        'that)')
    parser.add_argument('--position-bias', choices=KINDS, default='log_cpb',
                        help='of a continuous bias, where the file does not say (default log_cpb)')
    parser.add_argument('--out', type=Path, default=Path('position_bias.png'))
    args = parser.parse_args(argv)
    try:
        draw(read(args.checkpoint, args), args.out)
    except (ValueError, OSError) as e:
        print(f'plot_position_bias: {" ".join(str(e).split())}', file=sys.stderr)
        return 2
    print(f'wrote {args.out}')
    return 0


def read(name: str, args: argparse.Namespace) -> list[tuple[str, Tensor]]:
    """The rows of a checkpoint: each a title and a table (nH, 2W-1, 2W-1).

    Raises:
        ValueError: if the file is no backbone on images, has no such block, or does not say its windows.
    """
    found = read_backbone_state(read_run(name))
    if found.axes != 2:
        raise ValueError(f'CHECKPOINT must be of a backbone on images, got {name}')
    config = check_complete(found)
    if 'position_bias' not in config and args.position_bias != 'parameterized':
        config['position_bias'] = args.position_bias
    if found.pretrained_window_sizes is None:
        raise ValueError(f'CHECKPOINT must say its pre-training windows, {name} does not: convert it with '
                         'tools/convert_checkpoint.py --pretrained-window-sizes')
    net = SwinTransformerV2(**dict(dict(window_size=list(found.pretrained_window_sizes)), **config))
    load_backbone(net, found)
    for what, value, most in (('--stage', args.stage, len(net.layers)),
                              ('--block', args.block, len(net.layers[min(args.stage, len(net.layers) - 1)].blocks))):
        if not 0 <= value < most:
            raise ValueError(f'{what} must be from 0 to {most - 1} for {name}, got {value}')
    attn = net.layers[args.stage].blocks[args.block].attn
    kind = attn.config.position_bias
    first = attn.window_size if kind == 'parameterized' else attn.pretrained_window
    windows = [(size, size) for size in args.windows or ()] or [first, tuple(2 * size for size in first)]
    if min(min(window) for window in windows) < 2:
        raise ValueError(f'--windows must be >= 2 tokens, got {args.windows}')
    rows, linear = [], None
    with torch.no_grad():
        table = attn.bias_table(first).detach()
        for window in windows:
            size = ' x '.join(map(str, window)) if len(set(window)) > 1 else str(window[0])
            if kind != 'parameterized':
                rows.append((f'{KINDS[kind]}, window {size}', attn.cpb_mlp(window, first)))
            if kind != 'parameterized' and window != first:
                print(f'window {first[0]} to {window[0]}: {beyond(window, first, "log_cpb"):.2f} times the range of '
                      f'coordinates further out if log-spaced, {beyond(window, first, "linear_cpb"):.2f} if linear')
            if kind == 'log_cpb' and window != first:
                linear = linear or fit_linear(table, first)
                rows.append((f'linear CPB (fitted), window {size}', linear(window, first)))
            if kind == 'parameterized' or window != first:
                method = 'learnt table' if window == first else 'bicubic'
                rows.append((f'{method}, window {size}', resize(table, window)))
    return rows


def fit_linear(table: Tensor, window: tuple[int, ...]) -> ContinuousBias:
    """A continuous bias of linear coordinates that is like a learnt table; prints how far it is from that.

    Args:
        table: Shape (nH, 2W-1, 2W-1).
        window: W, tokens along each axis; also that of pre-training.
    """
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        net = ContinuousBias(len(table), log_spaced=False)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, FIT_STEPS)
        for _ in range(FIT_STEPS):
            loss = (net(window, window) - table).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    print(f'linear CPB fitted to window {window[0]}: {loss.sqrt():.3f} off (root mean square), where the learnt bias '
          f'varies by {table.std(dim=(1, 2)).mean():.3f}')
    return net


def beyond(window: tuple[int, ...], first: tuple[int, ...], kind: str) -> float:
    """The range of coordinates beyond that of the first window, over that of the first window."""
    far, near = (relative_coordinates(w, first, log_spaced=kind == 'log_cpb').max().item() for w in (window, first))
    return far / near - 1


def draw(rows: list[tuple[str, Tensor]], picture: Path) -> None:
    """Draws a row per table and a column per head, each head with colours of its own."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
    heads = min(MOST_HEADS, min(len(table) for _, table in rows))
    figure = Figure(figsize=(2.2 * heads + 2.2, 2 * len(rows) + .6), layout='constrained')
    axes = figure.subplots(len(rows), heads, squeeze=False)
    for head in range(heads):
        low = min(table[head].min().item() for _, table in rows)
        high = max(table[head].max().item() for _, table in rows)
        for row, (title, table) in enumerate(rows):
            cell = axes[row][head]
            h, w = (n // 2 for n in table.shape[1:])
            image = cell.imshow(table[head], cmap='cividis', vmin=low, vmax=high,
                                extent=(-w - .5, w + .5, h + .5, -h - .5))
            cell.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            cell.yaxis.set_major_locator(MaxNLocator(5, integer=True))
            if row == 0:
                cell.set_title(f'head {head}')
            if head == 0:
                cell.set_ylabel('\n'.join([*title.split(', '), 'offset, tokens']))
        figure.colorbar(image, ax=[axes[row][head] for row in range(len(rows))], location='bottom', shrink=.9,
                        label='bias of the logits')
    figure.savefig(picture, dpi=110)


if __name__ == '__main__':
    sys.exit(main())
