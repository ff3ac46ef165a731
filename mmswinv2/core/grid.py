"""Which tokens attend to each other, on maps with any number of axes.

Windows of ``window`` tokens, moved by ``shift``, cut each axis of a map into *runs* of equal cells: the first cell ends
at the shift, whole windows follow, and the last one ends with the map. A *group* is one run per axis, so it holds cells
of one size; tokens attend to each other within their cell. That is what shifted, padded and masked windows mean, and
nothing has to be rolled, padded or masked for it. Along an axis of 40 tokens, window 16, shift 8::

    windows of the padded, rolled axis    |8.............23|24............39|40......47 0......7|  padding, mask
    cells of the axis as it is       |0..7|8.............23|24............39|                      neither

Legend: B images, *map tokens along each axis, nH heads, d channels of a head.

Source:
    arXiv:2103.14030, section 3.2 (shifted windows).
"""
from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor


class Run(NamedTuple):
    """Neighbouring cells of one size along an axis: first token, number of cells, tokens in each."""

    start: int
    count: int
    size: int

    @property
    def tokens(self) -> int:
        """Tokens of all its cells."""
        return self.count * self.size


Group = tuple[Run, ...]


@dataclass(frozen=True)
class Axis:
    """An axis of a map with its windows.

    Args:
        length: Tokens along the axis.
        window: Tokens of a window, at most ``length``.
        shift: Tokens by which windows are moved, less than ``window``.
    """

    length: int
    window: int
    shift: int = 0

    @classmethod
    def fit(cls, length: int, window: int, *, shifted: bool = False, balanced: bool = False) -> Axis:
        """Lays windows over an axis.

        An axis no longer than the window is one window of its own length, unshifted: the released rule.

        Args:
            length: Tokens along the axis.
            window: Tokens of a window.
            shifted: Whether windows are moved by half their size.
            balanced: Whether the smallest window is taken that needs no more windows.
        """
        if balanced:
            window = -(-length // -(-length // window))
        if length <= window:
            return cls(length, length)
        return cls(length, window, window // 2 if shifted else 0)

    @property
    def padded(self) -> int:
        """Tokens along the axis after padding to whole windows."""
        return -(-self.length // self.window) * self.window

    @property
    def runs(self) -> Group:
        """The cells: at most three runs that together hold each token once."""
        runs = [Run(0, 1, self.shift)] if self.shift else []
        whole, rest = divmod(self.length - self.shift, self.window)
        if whole:
            runs.append(Run(self.shift, whole, self.window))
        if rest:
            runs.append(Run(self.length - rest, 1, rest))
        return tuple(runs)

    @property
    def pairs(self) -> int:
        """Pairs of tokens that attend to each other; those of a map are the product over its axes."""
        return sum(run.count * run.size**2 for run in self.runs)


Grid = tuple[Axis, ...]


def lengths_of(x: Tensor) -> list[int]:
    """Tokens along each axis of a map (B, *map, C): a traced graph is for maps of this size."""
    return [int(n) for n in x.shape[1:-1]] if torch.jit.is_tracing() else list(x.shape[1:-1])


def groups(grid: Grid) -> Iterator[Group]:
    """The groups of a map, the last axis running fastest: at most three to the number of axes."""
    return itertools.product(*(axis.runs for axis in grid))


def cells(x: Tensor, group: Group) -> Tensor:
    """Cuts a map that is one group into cells.

    Args:
        x: Shape (B, *map, nH, d), as many tokens along each axis as the group has.
        group: One run per axis.

    Returns:
        A view of shape (nH, B, *counts, *sizes, d).
    """
    axes = len(group)
    for i in range(axes, 0, -1):
        x = x.unflatten(i, (group[i - 1].count, group[i - 1].size))
    return x.permute(2 * axes + 1, 0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 2)


def copy_cells(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Copies cells, one after another: a view would keep the whole map for a backward pass.

    Args:
        x: Shape (nH, B, *counts, *sizes, d).
        dtype: Of the copy; None for that of ``x``.

    Returns:
        Shape (nH, cells of all images, N, d), contiguous.
    """
    axes = (x.ndim - 3) // 2
    number, tokens = prod(x.shape[1:2 + axes]), prod(x.shape[2 + axes:-1])
    x = x.to(dtype or x.dtype, copy=True, memory_format=torch.contiguous_format)
    return x.view(x.shape[0], number, tokens, x.shape[-1])


def uncut(x: Tensor, batch: int, group: Group) -> Tensor:
    """Puts the cells of a group back: the inverse of :func:`cells` and :func:`copy_cells`.

    Args:
        x: Shape (nH, cells of all images, N, d).
        batch: B.
        group: One run per axis.

    Returns:
        Shape (B, *map, nH d).
    """
    axes, channels = len(group), x.shape[0] * x.shape[-1]
    x = x.reshape(x.shape[0], batch, *(run.count for run in group), *(run.size for run in group), x.shape[-1])
    x = x.permute(1, *(i + j for i in range(2, 2 + axes) for j in (0, axes)), 0, 2 + 2 * axes)
    return x.reshape(batch, *(run.tokens for run in group), channels)


def take(x: Tensor, group: Group) -> Tensor:
    """The cells of a group.

    Args:
        x: A map, shape (B, *map, nH, d).
        group: One run per axis.

    Returns:
        A view of shape (nH, B, *counts, *sizes, d).
    """
    for i, run in enumerate(group, 1):
        x = x.narrow(i, run.start, run.tokens)
    return cells(x, group)


def split(x: Tensor, grid: Grid) -> list[Tensor]:
    """Cuts a map into its groups, for which autograd keeps no map of zeros per group as it does for slices.

    Args:
        x: Shape (B, *map, ...).
        grid: One axis of windows per axis of the map.

    Returns:
        Views in the order of :func:`groups`.
    """
    parts = [x]
    for i, axis in enumerate(grid, 1):
        sizes = [run.tokens for run in axis.runs]
        if len(sizes) > 1:
            parts = [piece for part in parts for piece in part.split(sizes, i)]
    return parts


def join(parts: Sequence[Tensor], grid: Grid) -> Tensor:
    """Joins the groups of a map: the inverse of :func:`split`."""
    parts = list(parts)
    for i in range(len(grid), 0, -1):
        count = len(grid[i - 1].runs)
        if count > 1:
            parts = [torch.cat(parts[j:j + count], i) for j in range(0, len(parts), count)]
    return parts[0]


def divide(batch: int, group: Group, limit: int) -> Iterator[tuple[slice, Group]]:
    """Cuts a group into parts of at most ``limit`` cells, those of whole images where they fit.

    Args:
        batch: B.
        group: One run per axis.
        limit: Cells, at least 1.

    Returns:
        Images and a smaller group, for each part.
    """
    counts = [batch, *(run.count for run in group)]
    steps, beyond = [], 1
    for count in reversed(counts):
        steps.insert(0, min(count, max(1, limit // beyond)))
        beyond *= count
    for first in itertools.product(*(range(0, count, step) for count, step in zip(counts, steps))):
        number = [min(step, count - i) for i, step, count in zip(first, steps, counts)]
        part = tuple(Run(run.start + i * run.size, n, run.size) for run, i, n in zip(group, first[1:], number[1:]))
        yield slice(first[0], first[0] + number[0]), part
