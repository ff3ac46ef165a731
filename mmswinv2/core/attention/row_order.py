"""A map's tokens in the order of cells, as one index: the token of each row of a kernel, and the row of each token.

Cells of one size follow each other. Small windows are all processed as whole ones, in one call: cells that a border
cuts share a window, or are filled up with *padding rows*, and a mask says which tokens of the window attend to each
other. Tokens of a cell stay neighbours, so the bias of a window fits them. Padding rows attend to each other.

Legend: B images, T tokens of all images, R rows, *map tokens along each axis, N tokens of a window.
"""
from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from ..grid import Axis, Grid, groups, take
from ..torch_compat import cached_per_device

SMALL = 256  # tokens of windows that are taken whole
MASKED = -3e4  # in float16; far below any logit


class Part(NamedTuple):
    """Cells of one size: the first row, how many cells, tokens along each axis of each."""

    first: int
    cells: int
    size: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """N, of a cell."""
        return prod(self.size)


class RowOrder(NamedTuple):
    """The order of rows.

    Args:
        parts: Cells by size.
        rows: The token of each row, counted through all images, (R,); T for a padding row.
        places: The row of each token, (T,).
        masks: Per kind of window (which borders cut it), added to logits: float16, (kinds, 1, N, N). None if there is
            one kind.
        kinds: The kind of each window, (cells,), or None.
        padded: Whether there are padding rows.
    """

    parts: tuple[Part, ...]
    rows: Tensor
    places: Tensor
    masks: Tensor | None
    kinds: Tensor | None
    padded: bool


@cached_per_device
def row_order(batch: int, grid: Grid, device: torch.device) -> RowOrder:
    """The order of rows of maps of ``batch`` images with the windows of ``grid``; computed on the device alone."""
    whole = [axis.shift == 0 and axis.length == axis.padded for axis in grid]
    if prod(axis.window for axis in grid) > SMALL or all(whole):
        (parts, rows), masks, kinds, padded = _by_size(batch, grid, device), None, None, False
    else:
        parts, rows, masks, kinds, padded = _whole_windows(batch, grid, device)
    tokens = batch * prod(axis.length for axis in grid)
    places = torch.empty(tokens + 1, dtype=torch.int64, device=device)
    places.scatter_(0, rows, torch.arange(len(rows), device=device))
    return RowOrder(parts, rows, places[:tokens], masks, kinds, padded)


def _by_size(batch: int, grid: Grid, device: torch.device) -> tuple[tuple[Part, ...], Tensor]:
    lengths = [axis.length for axis in grid]
    tokens = torch.arange(batch * prod(lengths), device=device).view(batch, *lengths, 1, 1)
    parts, rows = [], []
    for group in groups(grid):
        size = tuple(run.size for run in group)
        rows.append(take(tokens, group).flatten())
        parts.append(Part(sum(map(len, rows[:-1])), len(rows[-1]) // prod(size), size))
    return tuple(parts), torch.cat(rows)


def _whole_windows(batch: int, grid: Grid,
                   device: torch.device) -> tuple[tuple[Part, ...], Tensor, Tensor, Tensor, bool]:
    """Parts, rows, masks, kinds, and whether there are padding rows."""
    axes = [_axis_windows(axis, device) for axis in grid]
    n = len(grid)
    index = torch.arange(batch, device=device).view(-1, *[1] * (2 * n))
    inside = torch.ones((), dtype=torch.bool, device=device)
    kind = region = torch.zeros((), dtype=torch.int64, device=device)
    for i, (axis, (positions, regions, kinds)) in enumerate(zip(grid, axes)):
        windows, tokens = ([1] * n for _ in range(2))
        windows[i], tokens[i] = positions.shape
        at = positions.view(1, *windows, *tokens)
        index = index * axis.length + at  # (B, *windows, *window)
        inside = inside & (at >= 0)
        kind = kind * len(regions) + kinds.view(windows)  # (*windows,)
        # (kinds, window) of an axis to (*kinds, *window)
        shape = [1] * n
        shape[i] = len(regions)
        region = region * 4 + regions.view(*shape, *tokens)
    size = tuple(axis.window for axis in grid)
    total = batch * prod(axis.length for axis in grid)
    rows = torch.where(inside, index, total).flatten()
    region = region.reshape(-1, prod(size))  # (kinds, N)
    masks = torch.where(region[:, None, :, None] == region[:, None, None, :], 0., MASKED).to(torch.float16)
    kinds = kind.flatten().repeat(batch)
    return (Part(0, len(kinds), size),), rows, masks, kinds, len(rows) > total


def _axis_windows(axis: Axis, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The windows of an axis: whole cells, then those that a border cuts.

    Returns:
        (position of each token or -1, (windows, W); per kind of window, the cell of each token, 0 to 2, or 3 for a
        padding row, (kinds, W); the kind of each window (windows,)).
    """
    def filled(n: int, value: int) -> Tensor:
        return torch.full((n,), value, dtype=torch.int64, device=device)

    size, whole = axis.window, (axis.length - axis.shift) // axis.window
    end = axis.shift + whole * size
    borders = [(0, axis.shift, 1), (end, axis.length, 2)]  # first token, the one after, cell
    borders = [cell for cell in borders if cell[0] < cell[1]]
    fit_one_window = sum(stop - start for start, stop, _ in borders) <= size
    together = [borders] if borders and fit_one_window else [[cell] for cell in borders]
    positions = [torch.arange(axis.shift, end, device=device)]
    regions, kinds = ([filled(size, 0)], [filled(whole, 0)]) if whole else ([], [])
    for cells in together:
        missing = size - sum(stop - start for start, stop, _ in cells)
        kinds.append(filled(1, len(regions)))
        positions += [*(torch.arange(start, stop, device=device) for start, stop, _ in cells), filled(missing, -1)]
        regions.append(torch.cat([*(filled(stop - start, cell) for start, stop, cell in cells), filled(missing, 3)]))
    return torch.cat(positions).view(-1, size), torch.stack(regions), torch.cat(kinds)
