#!/usr/bin/env python3
"""Draws where chosen points of an image look: the attention of a block from the token under each point, over the image.

Probabilities are exact: those of the block's window attention for that query, the mean of its heads or each head's. The
cell of tokens that the query attends to is outlined in white, the query in red; outside of the cell the image is left
as it is. There is a column for the windows of the config and one for each of --window-size, which is set as
`model.backbone.window_size`: blocks before the one that is drawn have that window too.

    python tools/plot_attention.py configs/mmseg/upernet_swinv2_mini.py work_dirs/mini_seg/iter_300.pth image.png \\
        --points 40 60 150 30 --stage 1 --block 1 --window-size 12 --out attention.png

Points are pixels of the image as the model takes it at test, after its pipeline: the axes of the picture show them.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.config import DictAction
from torch import Tensor

from mmswinv2.core.attention.eager import cosine_normalize, scale_of
from mmswinv2.core.grid import Axis, Run
from mmswinv2.core.swin_transformer_v2 import SwinBlock
from predict import reason
from trained_backbone import TrainedBackbone

POINT = '#D55E00'  # vermilion, which viridis does not have
MEAN = None  # of heads


@dataclass(frozen=True)
class Cell:
    """The tokens that share a cell with a query: a run of one cell along each axis."""

    rows: Run
    columns: Run


@dataclass(frozen=True)
class Column:
    """What was computed with one setting of windows."""

    window: tuple[int, int]  # in tokens, fitted to the map
    stride: tuple[int, int]  # (h, w) of a token in pixels
    found: list[tuple[tuple[int, int], Cell, Tensor]]  # of each point: token (row, column), cell, probabilities


def main(argv: list[str] | None = None) -> int:
    """Reads the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', metavar='CONFIG', help='of MMDetection, MMSegmentation or MMPretrain')
    parser.add_argument('checkpoint', metavar='CHECKPOINT')
    parser.add_argument('image', metavar='IMAGE', type=Path)
    parser.add_argument('--points', type=int, nargs='+', required=True, metavar='X Y', help='pixels, a pair per point')
    parser.add_argument('--stage', type=int, default=0)
    parser.add_argument('--block', type=int, default=0)
    parser.add_argument('--window-size', type=int, nargs='+', default=[], metavar='W',
                        help='further windows, tokens a side in all stages')
    parser.add_argument('--heads', type=int, nargs='*', metavar='HEAD',
                        help='heads to draw beside their mean; no number: all')
    parser.add_argument('--out', type=Path, default=Path('attention.png'))
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    args = parser.parse_args(argv)
    try:
        image, columns = compute(args)
        heads = range(len(columns[0].found[0][2])) if args.heads == [] else args.heads or ()
        draw(image, columns, (MEAN, *heads), args.out)
    except (ValueError, OSError, ImportError) as e:
        print(f'plot_attention: {" ".join(str(e).split())}', file=sys.stderr)
        return 2
    print(f'wrote {args.out}')
    return 0


def compute(args: argparse.Namespace) -> tuple[Tensor, list[Column]]:
    """The image as the model takes it, (h, w) in grey from 0 to 255, and what is drawn over it."""
    if len(args.points) % 2:
        raise ValueError(f'--points must be pairs X Y, got {len(args.points)} numbers')
    if not args.image.is_file():
        raise ValueError(f'IMAGE must be a file, got {str(args.image)!r}')
    points, columns = list(zip(args.points[::2], args.points[1::2])), []
    for window in (None, *args.window_size):
        options = {} if window is None else {'model.backbone.window_size': window}
        model = TrainedBackbone(args.config, args.checkpoint, device=args.device,
                                options={**args.cfg_options, **options})
        check_block(model, args)
        try:
            x, image = model.read(args.image)
        except Exception as e:  # what readers of images raise is as various as what is wrong with images
            raise ValueError(f'IMAGE must be one that can be read, got {args.image}: {reason(e)}') from e
        h, w = image.shape[-2:]
        for point in points:
            if not (0 <= point[0] < w and 0 <= point[1] < h):
                raise ValueError(f'--points must be within the image, {w} x {h} px as the model takes it, got '
                                 f'{point[0]} {point[1]}')
        before = next(step.before for step in model.run(x) if (step.stage, step.number) == (args.stage, args.block))
        columns.append(look(model.net.layers[args.stage].blocks[args.block], before, points,
                            [size * 2**args.stage for size in model.net.config.patch_size]))
    return image.float().mean(0), columns


def check_block(model: TrainedBackbone, args: argparse.Namespace) -> None:
    """Checks that there are such a stage, block and heads."""
    def check(what: str, value: int, count: int) -> None:
        if not 0 <= value < count:
            raise ValueError(f'{what} must be from 0 to {count - 1} for {args.config}, got {value}')

    check('--stage', args.stage, len(model.stages))
    blocks = model.stages[args.stage].blocks
    check('--block', args.block, len(blocks))
    for head in args.heads or ():
        check('--heads', head, blocks[args.block].attn.logit_scale.numel())


def look(block: SwinBlock, x: Tensor, points: Sequence[tuple[int, int]], stride: Sequence[int]) -> Column:
    """Attention of a block on a map (1, H, W, C), from the tokens of ``stride`` pixels under points (x, y)."""
    grid = block.attn.grid(x.shape[1:-1], shifted=block.shifted)
    found = []
    for across, down in points:
        token = down // stride[0], across // stride[1]
        found.append((token, *attention_from(block, x, token)))
    return Column(tuple(axis.window for axis in grid), tuple(stride), found)


@torch.no_grad()
def attention_from(block: SwinBlock, x: Tensor, token: tuple[int, int]) -> tuple[Cell, Tensor]:
    """The attention of one query: ``softmax(scale cos(q, k) + bias)`` over the tokens of its cell.

    Args:
        block: Of a backbone.
        x: The map before it, (1, H, W, C).
        token: (row, column) of the query.

    Returns:
        (its cell, probabilities (nH, H, W), 0 outside of the cell). Where padding is attended to (``mask_padding`` is
        False), cell and probabilities are of the map padded to whole windows.
    """
    attn = block.attn
    x = block.norm1(x) if block.norm_first else x
    grid = attn.grid(x.shape[1:-1], shifted=block.shifted)
    if not attn.config.mask_padding:  # a token of padding is one of zeros, before the projection
        h, w = (axis.padded - axis.length for axis in grid)
        x, grid = F.pad(x, (0, 0, 0, w, 0, h)), tuple(replace(axis, length=axis.padded) for axis in grid)
    num_heads = attn.logit_scale.numel()
    q, k, _ = attn.project(x)[0].unflatten(-1, (3, num_heads, -1)).unbind(-3)  # (H, W, nH, d)
    cell = Cell(*(cell_of(axis, i) for axis, i in zip(grid, token)))
    rows, columns = (torch.arange(run.start, run.start + run.size, device=x.device)
                     for run in (cell.rows, cell.columns))
    q, k = cosine_normalize(q[token]), cosine_normalize(k[rows][:, columns])  # (nH, d), (h, w, nH, d)
    table = attn.bias_table([axis.window for axis in grid])  # offsets from 1 - W on
    down, across = (axis.window - 1 + i - keys for axis, i, keys in zip(grid, token, (rows, columns)))
    logits = torch.einsum('nd,hwnd->nhw', q, k) * scale_of(attn.logit_scale, q.dtype)
    logits = logits + table[:, down][:, :, across].to(q.dtype)
    out = q.new_zeros(num_heads, *x.shape[1:-1])
    out[:, rows[:, None], columns] = logits.flatten(1).softmax(-1).view_as(logits)
    return cell, out


def cell_of(axis: Axis, token: int) -> Run:
    """The cell along an axis that a token is in."""
    return next(Run(start, 1, run.size, run.size) for run in axis.runs
                for start in range(run.start, run.start + run.count * run.step, run.step)
                if start <= token < start + run.size)


def draw(image: Tensor, columns: list[Column], heads: Sequence[int | None], picture: Path) -> None:
    """Draws a row per point, or per point and window if heads are drawn, and a column per window or head."""
    from matplotlib.figure import Figure
    h, w = image.shape
    shown = [[(i, column, head) for column in columns for head in heads] for i in range(len(columns[0].found))]
    if len(heads) > 1:
        shown = [row[i:i + len(heads)] for row in shown for i in range(0, len(row), len(heads))]
    wide = 2.8 * max(1., min(w / h, 2.)) ** .5
    figure = Figure(figsize=(wide * len(shown[0]) + .9, (wide * h / w + .95) * len(shown) + .1), layout='constrained')
    for axes, row in zip(figure.subplots(len(shown), len(shown[0]), squeeze=False), shown):
        for cell, (i, column, head) in zip(axes, row):
            bar = draw_one(cell, image, column, i, head)
            figure.colorbar(bar, ax=cell, location='bottom', shrink=.9, aspect=30, label='attention, %')
            if cell is axes[0]:
                cell.set_ylabel('pixels')
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)


def draw_one(axes, image: Tensor, column: Column, point: int, head: int | None):
    """Draws the attention of a point over the image; returns the map of colours."""
    from matplotlib.patches import Rectangle
    (row, across), cell, found = column.found[point]
    h, w = image.shape
    dy, dx = column.stride
    percent = 100 * (found.mean(0) if head is MEAN else found[head]).cpu().numpy()
    inside = percent[cell.rows.start:cell.rows.start + cell.rows.size,
                     cell.columns.start:cell.columns.start + cell.columns.size]
    left, top = dx * cell.columns.start, dy * cell.rows.start
    right, bottom = left + dx * cell.columns.size, top + dy * cell.rows.size
    axes.imshow(image.numpy(), cmap='gray', vmin=0, vmax=255, extent=(0, w, h, 0))
    drawn = axes.imshow(inside, cmap='viridis', alpha=.75, vmin=0, extent=(left, right, bottom, top),
                        interpolation='nearest')
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor='white', linewidth=1.5))
    axes.add_patch(Rectangle((dx * across, dy * row), dx, dy, fill=False, edgecolor=POINT, linewidth=1.8))
    axes.set_xlim(0, w)
    axes.set_ylim(h, 0)
    heads = 'mean of heads' if head is MEAN else f'head {head}'
    axes.set_title(f'window {column.window[0]} x {column.window[1]}, {heads}', fontsize=9)
    return drawn


if __name__ == '__main__':
    sys.exit(main())
