"""Windows of a map: pad, shift, partition, and which kind of window needs which mask.

Legend: B images, H W tokens, C channels, nW windows per image, N = Wh*Ww tokens per window.

A map is padded at the bottom and right to whole windows, then shifted (rolled), then partitioned. Both padding and
shift concern only the last windows of an axis: the last one, and the one before it when the padding is wider than
the window less the shift. So the windows of an axis fall into at most three kinds and those of a map into nine, and
a mask is needed once per kind, never per window.

Source:
    arXiv:2103.14030, section 3.2 (shifted windows, cyclic shift); the order pad, then shift is that of the authors'
    dense code (SwinTransformer/MIM-Depth-Estimation, ``models/swin_transformer_v2.py``).
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

INSIDE, WRAPPED, PADDING = 0, 1, 2


@dataclass(frozen=True)
class AxisWindows:
    """The windows along one axis of a map.

    A map no larger than the window is one window of the map's own length, unshifted: the released rule.

    Args:
        length: Tokens of the map along the axis.
        window: Tokens of a window along the axis.
        shift: Tokens by which the padded axis is rolled towards its start.
        count: Windows along the axis.
    """

    length: int
    window: int
    shift: int
    count: int

    @classmethod
    def fit(cls, length: int, window: int, shift: int) -> AxisWindows:
        """Lays windows of at most ``window`` tokens, shifted by ``shift``, over ``length`` tokens."""
        if length <= window:
            return cls(length, length, 0, 1)
        return cls(length, window, shift, -(-length // window))

    @property
    def padded(self) -> int:
        """Tokens along the axis after padding to whole windows."""
        return self.window * self.count

    def kinds(self, mask_padding: bool = True) -> list[tuple[slice, tuple[int, ...]]]:
        """Groups neighbouring windows that look alike.

        Args:
            mask_padding: Whether padding is a region of its own; otherwise a padding token counts as its position.

        Returns:
            A list of (which windows, region of each of their ``window`` tokens): ``INSIDE`` the map, ``WRAPPED``
            around from its start, or ``PADDING``. Tokens of different regions do not attend to each other.
        """
        # after the roll, position p holds token (p + shift) % padded
        pad_start, pad_stop = self.length - self.shift, self.padded - self.shift

        def region(p: int) -> int:
            if mask_padding and pad_start <= p < pad_stop:
                return PADDING
            return WRAPPED if p >= pad_stop else INSIDE

        groups: list[tuple[slice, tuple[int, ...]]] = []
        special = min(2, self.count)  # only the last two windows can hold anything but INSIDE
        if self.count > special:
            groups.append((slice(0, self.count - special), (INSIDE,) * self.window))
        for i in range(self.count - special, self.count):
            regions = tuple(region(p) for p in range(i * self.window, (i + 1) * self.window))
            if groups and groups[-1][1] == regions:
                groups[-1] = (slice(groups[-1][0].start, i + 1), regions)
            else:
                groups.append((slice(i, i + 1), regions))
        return groups


def balanced_window(length: int, window: int) -> int:
    """The smallest window that covers ``length`` tokens with as many windows as ``window`` does."""
    return -(-length // -(-length // window))


@dataclass(frozen=True)
class WindowKind:
    """Windows of a map that share one mask.

    Args:
        rows: Which windows along H.
        cols: Which windows along W.
        regions: Region of each of the N tokens of such a window, or None where all are of one region (no mask).
    """

    rows: slice
    cols: slice
    regions: tuple[int, ...] | None

    def allowed(self, device: torch.device) -> Tensor | None:
        """Which pairs may attend to each other: bool, shape (N, N), True where they may; None for all of them."""
        if self.regions is None:
            return None
        regions = torch.tensor(self.regions, device=device)  # (N,)
        return regions[:, None] == regions[None, :]


@lru_cache(maxsize=1024)
def window_kinds(rows: AxisWindows, cols: AxisWindows, *, mask_padding: bool = True) -> tuple[WindowKind, ...]:
    """Groups the windows of a map by the mask they need: at most nine groups, whatever the size of the map.

    Args:
        rows: Windows along H.
        cols: Windows along W.
        mask_padding: Whether padding tokens are a region of their own (no other token attends to them).

    Returns:
        Groups that together hold each window once; the same object for the same arguments.
    """
    kinds = []
    for row_slice, row_regions in rows.kinds(mask_padding):
        for col_slice, col_regions in cols.kinds(mask_padding):
            regions = tuple(
                3 * PADDING if PADDING in (r, c) else 3 * r + c for r in row_regions for c in col_regions)
            kinds.append(WindowKind(row_slice, col_slice, regions if len(set(regions)) > 1 else None))
    return tuple(kinds)


def pad_map(x: Tensor, rows: AxisWindows, cols: AxisWindows, *, value: Tensor | None = None) -> Tensor:
    """Pads a map (B, H, W, C) at the bottom and right to whole windows, with ``value`` (C,) or zeros."""
    b, h, _, c = x.shape
    pad_h, pad_w = rows.padded - rows.length, cols.padded - cols.length
    if not (pad_h or pad_w):
        return x
    if value is None:
        return F.pad(x, (0, 0, 0, pad_w, 0, pad_h))
    value = value.to(x.dtype)
    x = torch.cat([x, value.expand(b, h, pad_w, c)], dim=2)
    return torch.cat([x, value.expand(b, pad_h, cols.padded, c)], dim=1)


def window_partition(x: Tensor, rows: AxisWindows, cols: AxisWindows, *, value: Tensor | None = None) -> Tensor:
    """Pads a map, shifts it and cuts it into windows.

    Args:
        x: Map, shape (B, H, W, C).
        rows: Windows along H; ``rows.length`` is H.
        cols: Windows along W; ``cols.length`` is W.
        value: Content of a padding token, shape (C,); None for zeros.

    Returns:
        Shape (B, nWh, nWw, N, C).
    """
    b, h, w, c = x.shape
    assert (h, w) == (rows.length, cols.length), 'the windows were laid over a map of another size'
    x = pad_map(x, rows, cols, value=value)
    if rows.shift or cols.shift:
        x = torch.roll(x, (-rows.shift, -cols.shift), dims=(1, 2))
    x = x.view(b, rows.count, rows.window, cols.count, cols.window, c)
    return x.transpose(2, 3).reshape(b, rows.count, cols.count, rows.window * cols.window, c)


def window_reverse(windows: Tensor, rows: AxisWindows, cols: AxisWindows) -> Tensor:
    """The inverse of :func:`window_partition`: joins windows, undoes the shift and crops the padding.

    Args:
        windows: Shape (B, nWh, nWw, N, C).
        rows: Windows along H.
        cols: Windows along W.

    Returns:
        Shape (B, H, W, C).
    """
    b, _, _, _, c = windows.shape
    x = windows.view(b, rows.count, cols.count, rows.window, cols.window, c).transpose(2, 3)
    x = x.reshape(b, rows.padded, cols.padded, c)
    if rows.shift or cols.shift:
        x = torch.roll(x, (rows.shift, cols.shift), dims=(1, 2))
    return x[:, :rows.length, :cols.length]
