"""Relative position bias: log-spaced continuous (log-CPB), linear continuous, and a table of parameters.

Legend: window (Wh, Ww) in tokens, N = Wh*Ww, P the pre-training window, nH heads. A bias *table* has the shape
(nH, 2Wh-1, 2Ww-1): one value for each offset of a query from a key.

Source:
    arXiv:2111.09883, section 3.3; numbers of the released weights: microsoft/Swin-Transformer,
    ``models/swin_transformer_v2.py``, ``WindowAttention``. The linear coordinates are those of the authors' ablation
    (SwinTransformer/MIM-Depth-Estimation, table type ``linear_bylayer``).
"""
from __future__ import annotations

from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import Pair
from .precision import without_autocast

POSITION_BIASES = ('log_cpb', 'linear_cpb', 'parameterized')
CPB_HIDDEN = 512


def relative_coordinates(window: Pair, pretrained_window: Pair, *, log_spaced: bool = True,
                         dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Tensor:
    """Coordinates of each offset within a window, normalised by the window of pre-training.

    Args:
        window: (Wh, Ww) in tokens.
        pretrained_window: P, (h, w) in tokens, each >= 2: the window that the weights were first trained with. It
            stays what it was when the window changes, so that a larger window extrapolates.
        log_spaced: ``sign(t) log2(1 + |t|) / log2(8)`` with ``t = 8 dx / (P - 1)``; otherwise ``dx / (P - 1)``.
        dtype: A floating dtype.
        device: Where.

    Returns:
        Shape (2Wh-1, 2Ww-1, 2), the last axis (h, w).
    """
    axes = []
    for size, pretrained in zip(window, pretrained_window):
        # integers first: under some runtimes a floating arange comes out in half precision
        offsets = torch.arange(1 - size, size, dtype=torch.int64, device=device)  # (2W-1,)
        t = offsets.to(dtype) / (pretrained - 1)
        axes.append(torch.sign(t) * torch.log2(1 + 8 * t.abs()) / 3 if log_spaced else t)
    return torch.stack(torch.meshgrid(*axes, indexing='ij'), dim=-1)


def bias_from_table(table: Tensor, window: Pair) -> Tensor:
    """Expands a bias table to pairs of tokens.

    Args:
        table: Shape (nH, 2Wh-1, 2Ww-1).
        window: (Wh, Ww) in tokens.

    Returns:
        Shape (nH, N, N), rows are queries and columns keys.
    """
    h, w = window
    assert table.shape[-2:] == (2 * h - 1, 2 * w - 1), 'the table belongs to another window'
    rows = torch.arange(h, device=table.device)
    cols = torch.arange(w, device=table.device)
    dh = (rows[:, None] - rows[None, :] + h - 1)[:, None, :, None]  # (Wh, 1, Wh, 1)
    dw = (cols[:, None] - cols[None, :] + w - 1)[None, :, None, :]  # (1, Ww, 1, Ww)
    index = (dh * (2 * w - 1) + dw).reshape(-1)  # (N*N,)
    return table.flatten(1).index_select(1, index).view(-1, h * w, h * w)


class CastLinear(nn.Linear):
    """A linear layer that computes in the dtype of its input, whatever that of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., C) to (..., C')."""
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class ContinuousBias(nn.Sequential):
    """The two-layer MLP of continuous position bias: a bias table for any window.

    Its state-dict names are those of the release: ``0.weight``, ``0.bias``, ``2.weight``.

    Args:
        num_heads: nH.
        log_spaced: Log-spaced (log-CPB) or linear coordinates.
    """

    def __init__(self, num_heads: int, *, log_spaced: bool = True) -> None:
        super().__init__(CastLinear(2, CPB_HIDDEN), nn.ReLU(), CastLinear(CPB_HIDDEN, num_heads, bias=False))
        self.log_spaced = log_spaced

    def forward(self, window: Pair, pretrained_window: Pair) -> Tensor:
        """Returns ``16 sigmoid(mlp(coordinates))``, shape (nH, 2Wh-1, 2Ww-1), float32 (float64 for float64 weights)."""
        weight = self[0].weight
        dtype, device = torch.promote_types(weight.dtype, torch.float32), weight.device
        with without_autocast(device):
            x = relative_coordinates(window, pretrained_window, log_spaced=self.log_spaced, dtype=dtype, device=device)
            x = super().forward(x)  # (2Wh-1, 2Ww-1, nH)
            return 16 * torch.sigmoid(x).permute(2, 0, 1)


def crop_table(table: Tensor, window: Pair) -> Tensor:
    """The part of a bias table that a smaller window uses.

    Args:
        table: Shape (nH, 2Mh-1, 2Mw-1) of a window (Mh, Mw).
        window: (Wh, Ww) in tokens, at most (Mh, Mw).

    Returns:
        Shape (nH, 2Wh-1, 2Ww-1).
    """
    top, left = ((n - (2 * w - 1)) // 2 for n, w in zip(table.shape[-2:], window))
    return table[:, top:top + 2 * window[0] - 1, left:left + 2 * window[1] - 1]


def table_rows(window: Pair) -> int:
    """Rows of the parameterised table of a window (h, w): one per offset. Windows may have as many as another."""
    return (2 * window[0] - 1) * (2 * window[1] - 1)


def table_window(rows: int, said: Pair | None = None, *, otherwise: Pair | None = None) -> Pair:
    """The window of a parameterised table, from its number of rows: ``said``, a square one, or ``otherwise``.

    Args:
        rows: Rows of the table.
        said: The window to try first, (h, w) in tokens.
        otherwise: The window to try last.

    Raises:
        ValueError: if no such window has that many rows.
    """
    side = isqrt(rows)
    square = ((side + 1) // 2,) * 2
    for window in (said, square, otherwise):
        if window is not None and rows == table_rows(window):
            return window
    known = [window for window in (said, otherwise) if window]
    raise ValueError('relative_position_bias_table must have (2h-1)(2w-1) rows of a window (h, w) that is square '
                     f'or one of {known}, got {rows}')


def resize_table(table: Tensor, old: Pair, new: Pair) -> Tensor:
    """Resizes a parameterised table to another window, bicubically, as the paper's baseline does.

    Args:
        table: Shape ((2h-1)(2w-1), nH), rows ordered by the offset along H, then W.
        old: (h, w) in tokens.
        new: (Wh, Ww) in tokens.

    Returns:
        Shape ((2Wh-1)(2Ww-1), nH), dtype of ``table``.

    Source:
        arXiv:2111.09883, section 3.3, table 1; microsoft/Swin-Transformer, ``utils.py``, ``load_pretrained``.
    """
    if old == new:
        return table
    (h, w), size = old, tuple(2 * n - 1 for n in new)
    x = table.to(torch.promote_types(table.dtype, torch.float32)).t().view(1, -1, 2 * h - 1, 2 * w - 1)
    return F.interpolate(x, size=size, mode='bicubic').flatten(2)[0].t().to(table.dtype).contiguous()
