"""A map as whole windows, with padding tokens at its borders, for maps whose lengths are symbols.

``grid.py`` finds the cells of a map from its length, which an exported program does not know. There each window is
whole, and padding tokens are masked.

Legend: B images, *map tokens along each axis, N tokens of a window, nH heads, d channels of a head.
"""
from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from .grid import Axis, Grid, part


def cut_whole(x: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Cuts a map (B, *map, nH, d) into whole windows, with padding tokens at its borders; lengths may be symbols.

    Returns:
        (windows, shape (nH, windows of all images, N, d); which tokens are padding, (windows of all images, N)).
    """
    axes, padding = len(grid), torch.zeros((), dtype=torch.bool, device=x.device)
    for i, axis in enumerate(grid):
        number, before = _whole(axis)
        x = F.pad(x, [0, 0] * (axes + 1 - i) + [before, number * axis.window - before - axis.length])
        at = torch.arange(number * axis.window, device=x.device) - before
        shape = [1] * (2 * axes)
        shape[i], shape[axes + i] = number, axis.window
        padding = padding | ((at < 0) | (at >= axis.length)).view(shape)
    shape = [n for axis in grid for n in (_whole(axis)[0], axis.window)]
    x = x.view(x.shape[0], *shape, *x.shape[-2:])
    x = x.permute(1 + 2 * axes, 0, *range(1, 2 * axes, 2), *range(2, 1 + 2 * axes, 2), 2 + 2 * axes)
    tokens = prod(axis.window for axis in grid)
    padding = padding.expand(x.shape[1], *padding.shape).reshape(-1, tokens)
    x = x.clone(memory_format=torch.contiguous_format)  # reshape would ask how symbols compare
    return x.view(x.shape[0], -1, tokens, x.shape[-1]), padding


def paste_whole(rows: Tensor, batch: int, grid: Grid) -> Tensor:
    """Puts whole windows together to a map (B, *map, nH, d), without padding tokens; undoes :func:`cut_whole`."""
    axes = len(grid)
    numbers = [_whole(axis)[0] for axis in grid]
    x = rows.view(rows.shape[0], batch, *numbers, *(axis.window for axis in grid), rows.shape[-1])
    x = x.permute(1, *(i + j for i in range(2, 2 + axes) for j in (0, axes)), 0, 2 + 2 * axes)
    x = x.clone(memory_format=torch.contiguous_format)
    x = x.view(batch, *(n * axis.window for n, axis in zip(numbers, grid)), *x.shape[-2:])
    for i, axis in enumerate(grid, 1):
        x = part(x, i, _whole(axis)[1], axis.length)
    return x


def _whole(axis: Axis) -> tuple[int, int]:
    """How many whole windows cover an axis, and the padding tokens before its first token."""
    before = axis.window - axis.shift if axis.shift else 0
    return (axis.length + before + axis.window - 1) // axis.window, before
