"""Relative position bias on any number of axes: log-spaced continuous (log-CPB), linear continuous, parameterised.

A bias *table* holds one value for each offset of a query from a key: shape (nH, 2W-1, ...), one axis per axis of the
window. Files keep parameterised tables as *rows*, shape (prod(2W-1), nH); :func:`from_rows` reads them.

Legend: nH heads, W tokens of a window along an axis, N tokens of a window, P the pre-training window along an axis.

Source:
    arXiv:2111.09883, section 3.3; numbers of the released weights: microsoft/Swin-Transformer,
    ``models/swin_transformer_v2.py``, ``WindowAttention``. The linear coordinates are those of the authors' ablation
    (SwinTransformer/MIM-Depth-Estimation, table type ``linear_bylayer``).
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .checks import Window
from .torch_compat import cached_per_device, is_transformed, without_autocast

POSITION_BIASES = ('log_cpb', 'linear_cpb', 'parameterized')
CPB_HIDDEN = 512
RANGE = 8  # coordinates are spread over -8 to 8 before the logarithm, whose base this is too
LARGEST_BIAS = 16
INDEXED = 1024  # tokens of the largest window whose table is expanded by an index


def relative_coordinates(window: Sequence[int], pretrained_window: Sequence[int], *, log_spaced: bool = True,
                         dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Tensor:
    """Coordinates of each offset within a window, normalised by the window of pre-training.

    Args:
        window: Tokens along each axis.
        pretrained_window: P, tokens along each axis: the window that the weights were first trained with. It does not
            change with the window, so a larger window extrapolates. Where P is 1, offsets are divided by 1.
        log_spaced: ``sign(t) log2(1 + |t|) / log2(8)`` with ``t = 8 dx / (P - 1)``; otherwise ``dx / (P - 1)``.
        dtype: A floating dtype.
        device: Where.

    Returns:
        Shape (2W-1, ..., axes).
    """
    axes = []
    for size, pretrained in zip(window, pretrained_window):
        # integers first: under some runtimes a floating arange comes out in half precision
        offsets = torch.arange(1 - size, size, dtype=torch.int64, device=device)  # (2W-1,)
        t = offsets.to(dtype) / max(pretrained - 1, 1)
        axes.append(torch.sign(t) * torch.log2(1 + RANGE * t.abs()) / math.log2(RANGE) if log_spaced else t)
    return torch.stack(torch.meshgrid(*axes, indexing='ij'), dim=-1)


def window_of(table: Tensor) -> tuple[int, ...]:
    """The window of a bias table, in tokens along each axis."""
    return tuple((n + 1) // 2 for n in table.shape[1:])


def expand(table: Tensor) -> Tensor:
    """Expands a bias table (nH, 2W-1, ...) to pairs of tokens, (nH, N, N); rows are queries and columns keys."""
    return expand_cells(table, [window_of(table)])[0]


def expand_cells(table: Tensor, sizes: Sequence[Sequence[int]]) -> list[Tensor]:
    """As :func:`expand`, for cells of each of ``sizes`` (tokens along each axis, at most the window)."""
    window = window_of(table)
    # there an index is three times as fast; elsewhere it would be added to with atomics
    if table.device.type == 'cpu' and math.prod(window) <= INDEXED and not is_transformed():
        whole = table.flatten(1).index_select(1, _offsets(window, table.device)).view(-1, *window, *window)
        return [_first(whole, size).reshape(-1, *[math.prod(size)] * 2) for size in sizes]
    return [_expand(crop(table, size)) for size in sizes]


def _expand(table: Tensor) -> Tensor:
    """Expands by views of the reversed table, one per query position: no index, and a derivative without atomics."""
    axes, window = tuple(range(1, table.ndim)), window_of(table)
    x = table.flip(axes)
    for i, size in zip(axes, window):
        x = x.unfold(i, size, 1)  # (nH, W, ..., W, ...): position W-1-i of the query, j of the key
    n = math.prod(window)
    return x.flip(axes).reshape(-1, n, n)


def _first(pairs: Tensor, size: Sequence[int]) -> Tensor:
    """Of (nH, *window, *window), the pairs of a smaller cell: the first tokens along each axis."""
    return pairs.as_strided((len(pairs), *size, *size), pairs.stride())


@cached_per_device
def _offsets(window: Window, device: torch.device) -> Tensor:
    """The position in a flat table of each token pair's offset, (N N,), int32."""
    positions = torch.arange(math.prod(2 * size - 1 for size in window), dtype=torch.int32, device=device)
    return _expand(positions.view(1, *(2 * size - 1 for size in window))).flatten()


def fold(grad: Tensor, window: Sequence[int]) -> Tensor:
    """The adjoint of :func:`expand`, axis by axis: sums of (nH, N, N) over the pairs of one offset, (nH, 2W-1, ...)."""
    axes = len(window)
    x = grad.reshape(-1, *window, *window)
    for i in range(1, axes + 1):  # offsets take the place of queries; the first axis of keys is that of the same axis
        x = _sum_diagonals(x.movedim((i, axes + 1), (-2, -1))).movedim(-1, i)
    return x


def fold_cells(grads: Sequence[Tensor], window: Sequence[int], sizes: Sequence[Window]) -> Tensor:
    """The adjoint of :func:`expand_cells`: shapes (nH, N, N) to (nH, 2W-1, ...)."""
    if list(sizes) == [tuple(window)]:
        return fold(grads[0], window)
    total = grads[0].new_zeros(len(grads[0]), *window, *window)
    for grad, size in zip(grads, sizes):
        part = _first(total, size)
        part += grad.reshape(part.shape)
    return fold(total, window)


def crop(table: Tensor, window: Sequence[int]) -> Tensor:
    """The part of a bias table that a smaller window uses: the middle, (nH, 2W-1, ...), as a view."""
    for i, size in enumerate(window, 1):
        length = 2 * size - 1
        table = table.narrow(i, (table.shape[i] - length) // 2, length)
    return table


def from_rows(rows: Tensor, window: Sequence[int]) -> Tensor:
    """A table in a file, (prod(2W-1), nH), the last axis of the window running fastest, as (nH, 2W-1, ...)."""
    return rows.t().unflatten(1, [2 * size - 1 for size in window])


def to_rows(table: Tensor) -> Tensor:
    """The inverse of :func:`from_rows`."""
    return table.flatten(1).t().contiguous()


def resize(table: Tensor, window: Window) -> Tensor:
    """Resizes a parameterised table to another window: bicubically over (h, w), linearly over t.

    The paper's baseline is bicubic too.

    Args:
        table: Shape (nH, 2h-1, 2w-1) or (nH, 2t-1, 2h-1, 2w-1).
        window: (Wh, Ww) or (Wt, Wh, Ww) in tokens.

    Returns:
        Shape (nH, 2W-1, ...), dtype of ``table``.

    Source:
        arXiv:2111.09883, section 3.3, table 1; microsoft/Swin-Transformer, ``utils.py``, ``load_pretrained``.
    """
    if window_of(table) == tuple(window):
        return table
    x = table.to(torch.promote_types(table.dtype, torch.float32))
    *times, h, w = (2 * size - 1 for size in window)
    x = F.interpolate(x.reshape(1, -1, *x.shape[-2:]), size=(h, w), mode='bicubic').view(*table.shape[:-2], h, w)
    for length in times:
        if x.shape[1] != length:
            x = F.interpolate(x.flatten(2).mT, size=length, mode='linear').mT.reshape(-1, length, h, w)
    return x.to(table.dtype)


def table_rows(window: Sequence[int]) -> int:
    """Rows of the parameterised table of a window: one per offset. Different windows can have equally many."""
    return math.prod(2 * size - 1 for size in window)


class CastLinear(nn.Linear):
    """A linear layer that computes in the dtype of its input, whatever the dtype of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., C) to (..., C')."""
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class ContinuousBias(nn.Sequential):
    """The two-layer MLP of continuous position bias: a bias table for any window.

    Its state-dict names are those of the release: ``0.weight``, ``0.bias``, ``2.weight``.

    Args:
        num_heads: nH.
        axes: Of the windows.
        log_spaced: Log-spaced (log-CPB) or linear coordinates.
    """

    def __init__(self, num_heads: int, *, axes: int = 2, log_spaced: bool = True) -> None:
        super().__init__(CastLinear(axes, CPB_HIDDEN), nn.ReLU(), CastLinear(CPB_HIDDEN, num_heads, bias=False))
        self.log_spaced = log_spaced

    def forward(self, window: Sequence[int], pretrained_window: Sequence[int], *,  # type: ignore[override]
                dtype: torch.dtype = torch.float32, device: torch.device = torch.device('cpu'),
                budget: int | None = None) -> Tensor:
        """Computes ``16 sigmoid(mlp(coordinates))``.

        Args:
            window: Tokens along each axis.
            pretrained_window: P, tokens along each axis.
            dtype: float32 or float64.
            device: That of the weights.
            budget: Bytes that hidden maps may take. Above it, offsets are processed in chunks, whose hidden maps are
                recomputed in the backward pass; windows over time need this. None: no limit.

        Returns:
            Shape (nH, 2W-1, ...), in ``dtype``.
        """
        with without_autocast(device):
            x = _coordinates(tuple(window), tuple(pretrained_window), self.log_spaced, dtype, device)
            hidden = 2 * CPB_HIDDEN * dtype.itemsize  # bytes of an offset, before and after the ReLU
            if budget is None or is_transformed() or len(x) * hidden <= max(budget, hidden):
                rows = super().forward(x)
            else:
                rows = torch.cat([self._chunk(part) for part in x.split(max(1, budget // hidden))])
            return LARGEST_BIAS * torch.sigmoid(from_rows(rows, window))

    def _chunk(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(x)
        return checkpoint(super().forward, x, use_reentrant=False)


@cached_per_device
def _coordinates(window: Window, pretrained_window: Window, log_spaced: bool, dtype: torch.dtype,
                 device: torch.device) -> Tensor:
    """Caches :func:`relative_coordinates` as rows, (prod(2W-1), axes).

    Its small operations are a third of a small block's launches on a GPU.
    """
    return relative_coordinates(window, pretrained_window, log_spaced=log_spaced, dtype=dtype,
                                device=device).flatten(0, -2)


def _sum_diagonals(x: Tensor) -> Tensor:
    """(..., n, n), row i and column j, to (..., 2n-1): sums over i - j = 1-n, ..., n-1.

    Each row is moved one further, which turns sums along diagonals into sums over columns.
    """
    n = x.shape[-1]
    x = F.pad(x.flip(-1), (0, n)).flatten(-2)[..., :-n]  # row i begins at i (2n) = i (2n-1) + i
    return x.unflatten(-1, (n, 2 * n - 1)).sum(-2)
