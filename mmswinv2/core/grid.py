"""Which tokens attend to each other, on maps with any number of axes.

Windows of ``window`` tokens, moved by ``shift``, cut each axis of a map into *cells*: the first cell ends at the shift,
whole windows follow, and the last cell ends with the map. A *run* is the cells of one size; the first and the last cell
are one run if they are equally long. A *group* is one run per axis, so it holds cells of one size. Tokens attend to
each other within their cell. This equals shifted, padded and masked windows, but nothing is rolled, padded or masked.
Along an axis of 40 tokens, window 16, shift 8::

    windows of the padded, rolled axis    |8.............23|24............39|40......47 0......7|  padding, mask
    cells of the axis as it is       |0..7|8.............23|24............39|                      neither

Legend: B images, *map tokens along each axis, nH heads, d channels of a head.

Source:
    arXiv:2103.14030, section 3.2 (shifted windows).
"""
from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from .torch_compat import is_compiling, is_exporting


class Run(NamedTuple):
    """Cells of one size along an axis: first token, number of cells, tokens in each, tokens from one to the next."""

    start: int
    count: int  # type: ignore[assignment]  # a tuple has a method of that name
    size: int
    step: int

    @property
    def tokens(self) -> int:
        """Tokens of all its cells."""
        return self.count * self.size


Group = tuple[Run, ...]


def is_symbol(length: int) -> bool:
    """Whether a length is a symbol of an exported program, which knows it at its call only."""
    return isinstance(length, torch.SymInt)


@dataclass(frozen=True)
class Axis:
    """An axis of a map with its windows.

    Args:
        length: Tokens along the axis.
        window: Tokens of a window, at most ``length`` unless that is a symbol.
        shift: Tokens by which windows are moved, less than ``window``.
    """

    length: int
    window: int
    shift: int = 0

    @classmethod
    def fit(cls, length: int, window: int, *, shifted: bool = False, balanced: bool = False) -> Axis:
        """Lays windows over an axis.

        An axis no longer than the window gets one unshifted window of its own length: the released rule. A symbolic
        length, in an exported program, keeps the window even where that is longer: see ``whole_windows.py``.

        Args:
            length: Tokens along the axis.
            window: Tokens of a window.
            shifted: Whether windows are moved by half their size.
            balanced: Whether to take the smallest window that needs no more windows.

        Raises:
            ValueError: if ``balanced`` is asked for on a symbol.
        """
        if is_symbol(length):
            if balanced:
                raise ValueError("window_fit must be 'exact' where height or width are dynamic, got 'balanced'")
            return cls(length, window, window // 2 if shifted and length > window else 0)
        if balanced:
            window = -(-length // -(-length // window))
        if length <= window:
            return cls(length, length)
        return cls(length, window, window // 2 if shifted else 0)

    @property
    def padded(self) -> int:
        """Tokens along the axis after padding to whole windows."""
        return (self.length + self.window - 1) // self.window * self.window

    @property
    def runs(self) -> Group:
        """The cells: at most three runs that together hold each token once."""
        tokens = self.length - self.shift
        whole, rest = tokens // self.window, tokens % self.window  # torch.compile knows no divmod of symbols
        runs = [Run(self.shift, whole, self.window, self.window)] if whole else []
        if self.shift and self.shift == rest:
            return Run(0, 2, rest, self.length - rest), *runs
        if self.shift:
            runs.insert(0, Run(0, 1, self.shift, self.shift))
        if rest:
            runs.append(Run(self.length - rest, 1, rest, rest))
        return tuple(runs)

    @property
    def pairs(self) -> int:
        """Pairs of tokens that attend to each other; for a map, multiply over its axes."""
        return sum(run.count * run.size**2 for run in self.runs)


Grid = tuple[Axis, ...]


def lengths_of(x: Tensor) -> list[int]:
    """Tokens along each axis of a map (B, *map, C): integers, so that a traced or compiled graph is for this size.

    In an exported program a length may be a symbol.
    """
    if torch.jit.is_tracing() or is_compiling() and not is_exporting():
        return [operator.index(n) for n in x.shape[1:-1]]  # int would keep a symbol of torch.compile
    return list(x.shape[1:-1])


def groups(grid: Grid) -> Iterator[Group]:
    """The groups of a map, the last axis running fastest: at most 3^axes of them."""
    return itertools.product(*(axis.runs for axis in grid))


def cell_sizes(grid: Grid) -> list[tuple[int, ...]]:
    """Tokens along each axis of the cells of each group."""
    return [tuple(run.size for run in group) for group in groups(grid)]


def take(x: Tensor, group: Group) -> Tensor:
    """The cells of a group.

    Args:
        x: A map, shape (B, *map, nH, d).
        group: One run per axis.

    Returns:
        A view of shape (nH, B, *counts, *sizes, d).
    """
    starts, counts, sizes, steps = zip(*group)
    batch, *along, heads, channels = x.stride()
    size = (x.shape[-2], x.shape[0], *counts, *sizes, x.shape[-1])
    stride = (heads, batch, *map(operator.mul, along, steps), *along, channels)
    return x.as_strided(size, stride, x.storage_offset() + sum(map(operator.mul, along, starts)))


def copy_cells(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Copies cells as of :func:`take`, one after another, to (nH, cells of all images, N, d), contiguous.

    A view would keep the whole map for a backward pass.
    """
    axes = (x.ndim - 3) // 2
    number, tokens = prod(x.shape[1:2 + axes]), prod(x.shape[2 + axes:-1])
    x = x.to(dtype or x.dtype, copy=True, memory_format=torch.contiguous_format)
    return x.view(x.shape[0], number, tokens, x.shape[-1])


def put_cells(x: Tensor, group: Group, rows: Tensor) -> None:
    """Writes copies of cells, (nH, cells of all images, N, d) or flattened, to their places in (B, *map, nH, d)."""
    target = take(x, group)
    target.copy_(rows.view(target.shape))


def cut(x: Tensor, grid: Grid) -> list[Tensor]:
    """Cuts a map (B, *map, nH, d) into copies of its cells, for autograd and its transforms.

    Returns:
        Shapes (nH, cells of all images, N, d), contiguous, group after group.
    """
    parts, axes = [x], len(grid)
    for i, axis in enumerate(grid, 1):
        parts = [part for whole in parts for part in _split(whole, axis, i)]
    order = (1 + axes, 0, *range(1, 1 + axes), *range(3 + axes, 3 + 2 * axes), 2 + axes)
    rows = []
    for part, group in zip(parts, groups(grid)):
        for i, run in enumerate(group, 1):
            part = part.unfold(i, run.size, run.size)
        rows.append(copy_cells(part.permute(order)))
    return rows


def paste(rows: Sequence[Tensor], batch: int, grid: Grid) -> Tensor:
    """Puts cells as of :func:`cut` together to a map (B, *map, nH, d): its inverse and adjoint."""
    parts = []  # nothing is written into an empty map, which torch.func.linearize would take for a constant
    axes = len(grid)
    for x, group in zip(rows, groups(grid)):
        x = x.view(x.shape[0], batch, *(run.count for run in group), *(run.size for run in group), x.shape[-1])
        x = x.permute(1, *(i + j for i in range(2, 2 + axes) for j in (0, axes)), 0, 2 + 2 * axes)
        parts.append(x.reshape(batch, *(run.tokens for run in group), *x.shape[-2:]))
    for i in range(axes, 0, -1):
        number = len(grid[i - 1].runs)
        parts = [_join(parts[j:j + number], grid[i - 1], i) for j in range(0, len(parts), number)]
    return parts[0]


def _stretches(axis: Axis) -> list[tuple[int, int, int]]:
    """(first token, tokens, which run) of stretches of an axis that belong to one run, in their order."""
    stretches = []
    for i, run in enumerate(axis.runs):
        if run.step == run.size:
            stretches.append((run.start, run.tokens, i))
        else:
            stretches += [(run.start + j * run.step, run.size, i) for j in range(run.count)]
    return sorted(stretches)


def _split(x: Tensor, axis: Axis, dim: int) -> list[Tensor]:
    """A map's runs along an axis, cells next to each other."""
    stretches = _stretches(axis)
    pieces = x.split([tokens for _, tokens, _ in stretches], dim)
    runs = [[piece for piece, (*_, j) in zip(pieces, stretches) if i == j] for i in range(len(axis.runs))]
    return [run[0] if len(run) == 1 else torch.cat(run, dim) for run in runs]


def _join(parts: Sequence[Tensor], axis: Axis, dim: int) -> Tensor:
    """The inverse of :func:`_split`."""
    stretches = _stretches(axis)
    if len(stretches) == 1:
        return parts[0]
    pieces = [iter(part.split([tokens for _, tokens, j in stretches if i == j], dim)) for i, part in enumerate(parts)]
    return torch.cat([next(pieces[i]) for *_, i in stretches], dim)


def divide(batch: int, group: Group, limit: int) -> Iterator[tuple[slice, Group]]:
    """Cuts a group into parts of at most ``limit`` >= 1 cells, of whole images where those fit.

    Returns:
        Images and a smaller group, for each part.
    """
    counts = [batch, *(run.count for run in group)]
    steps: list[int] = []
    beyond = 1
    for count in reversed(counts):
        steps.insert(0, min(count, max(1, limit // beyond)))
        beyond *= count
    for first in itertools.product(*(range(0, count, step) for count, step in zip(counts, steps))):
        number = [min(step, count - i) for i, step, count in zip(first, steps, counts)]
        part = tuple(run._replace(start=run.start + i * run.step, count=n)
                     for run, i, n in zip(group, first[1:], number[1:]))
        yield slice(first[0], first[0] + number[0]), part


def is_symbolic(grid: Grid) -> bool:
    """Whether a length is a symbol of an exported program. Cells depend on the length, so such a grid has none."""
    return any(is_symbol(axis.length) for axis in grid)


def part(x: Tensor, dim: int, start: int, length: int) -> Tensor:
    """A part of a map along an axis.

    Where the length is a symbol, it is a copy: a view would make a program depend on whether anything is cut off.
    """
    if not is_symbol(length):
        return x.narrow(dim, start, length)
    return x.index_select(dim, torch.arange(length, device=x.device) + start)


def pad_to_windows(x: Tensor, grid: Grid, value: Tensor) -> tuple[Tensor, Grid]:
    """Pads a map (B, *map, C) to whole windows by tokens of ``value`` (C,); an axis that is one window stays as it is.

    Returns:
        The map and its grid.
    """
    for i, axis in enumerate(grid, 1):
        if axis.length <= axis.window:
            continue
        # to a symbol as many as may be missing: those beyond whole windows are cut off
        missing = axis.window - 1 if is_symbol(axis.length) else axis.padded - axis.length
        if missing:
            shape = list(x.shape)
            shape[i] = missing
            x = part(torch.cat([x, value.to(x.dtype).expand(shape)], i), i, 0, axis.padded)
    return x, tuple(map(Axis, lengths_of(x), (axis.window for axis in grid), (axis.shift for axis in grid)))
