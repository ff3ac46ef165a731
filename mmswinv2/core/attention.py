"""Scaled cosine window attention: backends as functions of whole maps, and the module with its weights.

Legend: B images, H W tokens, C channels, nH heads, d = C/nH, window (Wh, Ww), N = Wh*Ww tokens per window,
nW windows per image.

A backend is a function ``f(qkv, table, logit_scale, *, window, shift, padding, dropout, budget) -> out`` with

* ``qkv``: queries, keys and values as projected, shape (B, H, W, 3C), the last axis being (3, nH, d);
* ``table``: the bias table of that window, shape (nH, 2Wh-1, 2Ww-1);
* ``logit_scale``: log of the scale, shape (nH, 1, 1), clamped by the backend to log 100;
* ``window``, ``shift``: (h, w) in tokens, fitted to the map: no window is larger than the map;
* ``padding``: what a padding token holds, shape (3C,), or None to mask padding tokens;
* ``dropout``: rate on the attention probabilities;
* ``budget``: MiB that intermediate results may take, about;

and returns (B, H, W, C). Padding, shift and partition are the backend's own matter. Backends differ in speed and
memory, never in meaning: each is tested equal to ``reference`` in output and in every gradient.

``reference``: the formula, with whole attention maps; derivatives of any order and mode. The others have first
derivatives in reverse mode, also under ``torch.func``, and refuse any other. ``sequential``: cell by cell within the
budget (``cell_attention.py``), forward and backward, also with dropout. ``sdpa``: the same with torch's fused kernel
(``F.scaled_dot_product_attention``) in the forward pass where there is no dropout. ``auto`` is ``sdpa``.

Source:
    arXiv:2111.09883, sections 3.2 and 3.3; microsoft/Swin-Transformer, ``models/swin_transformer_v2.py``,
    ``WindowAttention``.
"""
from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cell_attention import MAX_LOGIT_SCALE, MIB, cell_attention
from .checks import Pair, check_bool, check_int, check_rate
from .position_bias import (
    POSITION_BIASES,
    ContinuousBias,
    bias_from_table,
    crop_table,
)
from .precision import without_autocast
from .windows import AxisWindows, balanced_window, pad_map, window_kinds, window_partition, window_reverse


def cosine_normalize(x: Tensor) -> Tensor:
    """Divides each row by its length, in float32 or better; a row of zeros gives zeros with a zero gradient.

    ``F.normalize`` divides by ``max(|x|, eps)``, which is not this function for short rows and has a gradient of
    1/eps at zero: padded keys are exactly zero, and in half precision that becomes NaN.

    Args:
        x: Shape (..., d), any floating dtype.

    Returns:
        Shape (..., d), float32 (float64 for float64).
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    # lengths are taken of rows scaled to a largest entry of 1, so that no square under- or overflows
    largest = x.detach().abs().amax(-1, keepdim=True)
    zero = largest == 0
    x = x / largest.masked_fill(zero, 1)
    squared = x.square().sum(-1, keepdim=True)
    return x * squared.masked_fill(zero, 1).rsqrt().masked_fill(zero, 0)


def reference_attention(qkv: Tensor, table: Tensor, logit_scale: Tensor, *, window: Pair, shift: Pair,
                        padding: Tensor | None, dropout: float, budget: int = 0) -> Tensor:
    """The formula, window kind by window kind; see the head of this module for arguments and result.

    Whole attention maps are built and ``budget`` is not kept. Logits, softmax and the sum over values are computed in
    float32 (float64 for float64) whatever the dtype of ``qkv``, also under autocast.
    """
    b, h, w, c3 = qkv.shape
    rows, cols = (AxisWindows.fit(*axis) for axis in zip((h, w), window, shift))
    num_heads = logit_scale.shape[0]
    dtype = torch.promote_types(qkv.dtype, torch.float32)
    with without_autocast(qkv.device):
        bias = bias_from_table(table, window).to(dtype)  # (nH, N, N)
        scale = logit_scale.to(dtype).clamp(max=MAX_LOGIT_SCALE).exp()  # (nH, 1, 1)
        windows = window_partition(qkv, rows, cols, value=padding)  # (B, nWh, nWw, N, 3C)
        n = windows.shape[3]
        windows = windows.view(b, rows.count, cols.count, n, 3, num_heads, c3 // 3 // num_heads)
        q, k, v = windows.permute(4, 0, 1, 2, 5, 3, 6)  # each (B, nWh, nWw, nH, N, d)
        q, k, v = cosine_normalize(q), cosine_normalize(k), v.to(dtype)
        strips: dict[int, list[Tensor]] = {}  # kinds side by side, by their first row of windows
        for kind in window_kinds(rows, cols, mask_padding=padding is None):
            at = (slice(None), kind.rows, kind.cols)
            logits = q[at] @ k[at].transpose(-2, -1) * scale + bias  # (B, ., ., nH, N, N)
            allowed = kind.allowed(qkv.device)
            if allowed is not None:
                logits = logits.masked_fill(~allowed, -math.inf)
            strips.setdefault(kind.rows.start, []).append(F.dropout(logits.softmax(-1), dropout) @ v[at])
        # not written into an empty map, which torch.func.linearize would take for a constant
        out = torch.cat([torch.cat(strip, 2) for strip in strips.values()], 1)  # (B, nWh, nWw, nH, N, d)
        out = out.permute(0, 1, 2, 4, 3, 5).reshape(b, rows.count, cols.count, n, c3 // 3)
        return window_reverse(out, rows, cols).to(qkv.dtype)


def cellwise_attention(qkv: Tensor, table: Tensor, logit_scale: Tensor, *, window: Pair, shift: Pair,
                       padding: Tensor | None, dropout: float, budget: int, fused: bool) -> Tensor:
    """Attention cell by cell; see the head of this module for arguments and result.

    Padding that is masked is not computed at all. Under ``vmap`` maps are taken one after another.

    Args:
        fused: Whether torch's fused kernel computes the forward pass.

    Raises:
        RuntimeError: if a second or a forward-mode derivative is wanted.
    """
    _, h, w, _ = qkv.shape
    if padding is not None:
        rows, cols = (AxisWindows.fit(*axis) for axis in zip((h, w), window, shift))
        qkv = pad_map(qkv, rows, cols, value=padding)
    # on the CPU whatever the device, so that activation checkpointing restores it and nothing waits; without dropout
    # nothing is drawn, which vmap would refuse
    options = dict(dtype=torch.int64, device='cpu')
    seed = torch.randint(2**62, (1,), **options) if dropout else torch.empty(0, **options)
    out = cell_attention(qkv.contiguous(), table, logit_scale, seed, window, shift, dropout, budget * MIB, fused)
    return out[:, :h, :w]


def sequential_attention(*args, **kwargs) -> Tensor:
    """Cell by cell in bounded memory, forward and backward."""
    return cellwise_attention(*args, **kwargs, fused=False)


def sdpa_attention(*args, **kwargs) -> Tensor:
    """Cell by cell with torch's fused kernel in the forward pass."""
    return cellwise_attention(*args, **kwargs, fused=True)


BACKENDS: dict[str, Callable[..., Tensor]] = {
    'reference': reference_attention,
    'sdpa': sdpa_attention,
    'sequential': sequential_attention,
}
WINDOW_FITS = ('exact', 'balanced')
MAX_BUDGET_MIB = 2**40  # whose bytes are an int64


def get_backend(name: str) -> Callable[..., Tensor]:
    """Looks a backend up.

    Args:
        name: A key of ``BACKENDS``, or ``'auto'`` for the fastest one there is.

    Raises:
        ValueError: if the name is unknown.
    """
    if name == 'auto':
        return sdpa_attention
    if name not in BACKENDS:
        raise ValueError(f'attn_backend must be one of auto, {", ".join(BACKENDS)}, got {name!r}')
    return BACKENDS[name]


class BiasedLinear(nn.Linear):
    """A linear layer whose bias is given at the call: that of queries and values alone, or none."""

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Maps (..., C) to (..., C'), with ``bias`` (C',)."""
        return F.linear(x, self.weight, bias)


class WindowAttention(nn.Module):
    """Multi-head scaled cosine attention within windows, with a relative position bias.

    Args:
        dim: C.
        num_heads: nH, a divisor of C.
        window_size: (Wh, Ww) in tokens, each >= 2.
        pretrained_window: (h, w) in tokens, each >= 2: the normaliser of the coordinates of a continuous bias.
        position_bias: ``'log_cpb'``, ``'linear_cpb'`` or ``'parameterized'``.
        qkv_bias: Whether queries and values have a bias (keys have none).
        attn_drop_rate: Dropout of attention probabilities, in [0, 1).
        drop_rate: Dropout after the projection, in [0, 1).
        attn_backend: A key of ``BACKENDS``, or ``'auto'``.
        attn_budget_mib: MiB that a backend's intermediate results may take, about, beside its input and output; None:
            64 on a CPU, 512 elsewhere.
        window_fit: ``'exact'``, or ``'balanced'``: per axis, the smallest window with the same number of windows.
        mask_padding: Whether padding tokens are masked. Otherwise they take part as tokens of zeros, as in the
            authors' dense code.

    Raises:
        ValueError: if ``position_bias``, ``attn_backend`` or ``window_fit`` is unknown, or a number out of range.
    """

    def __init__(self, dim: int, *, num_heads: int, window_size: Pair, pretrained_window: Pair,
                 position_bias: str = 'log_cpb', qkv_bias: bool = True, attn_drop_rate: float = 0.,
                 drop_rate: float = 0., attn_backend: str = 'auto', attn_budget_mib: int | None = None,
                 window_fit: str = 'exact', mask_padding: bool = True) -> None:
        super().__init__()
        if position_bias not in POSITION_BIASES:
            raise ValueError(f'position_bias must be one of {", ".join(POSITION_BIASES)}, got {position_bias!r}')
        if window_fit not in WINDOW_FITS:
            raise ValueError(f'window_fit must be one of {", ".join(WINDOW_FITS)}, got {window_fit!r}')
        if attn_budget_mib is not None:
            attn_budget_mib = check_int('attn_budget_mib', attn_budget_mib, minimum=1, maximum=MAX_BUDGET_MIB,
                                        unit=' MiB or None')
        self.window_size = window_size
        self.window_fit = window_fit
        self.attn_budget_mib = attn_budget_mib
        self.pretrained_window = pretrained_window
        self.position_bias = position_bias
        self.attn_drop_rate = check_rate('attn_drop_rate', attn_drop_rate)
        self.backend = get_backend(attn_backend)
        self.mask_padding = check_bool('mask_padding', mask_padding)

        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10)))
        if position_bias == 'parameterized':
            offsets = (2 * window_size[0] - 1) * (2 * window_size[1] - 1)
            self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets, num_heads))
        else:
            self.cpb_mlp = ContinuousBias(num_heads, log_spaced=position_bias == 'log_cpb')
        self.qkv = BiasedLinear(dim, 3 * dim, bias=False)
        qkv_bias = check_bool('qkv_bias', qkv_bias)
        self.q_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(check_rate('drop_rate', drop_rate))

    def bias_table(self, window: Pair) -> Tensor:
        """The bias table of a window no larger than ``window_size``: (nH, 2Wh-1, 2Ww-1)."""
        if self.position_bias != 'parameterized':
            return self.cpb_mlp(window, self.pretrained_window)
        height, width = self.window_size
        table = self.relative_position_bias_table.t().view(-1, 2 * height - 1, 2 * width - 1)
        return crop_table(table, window)

    def forward(self, x: Tensor, *, shifted: bool = False) -> Tensor:
        """Attends within windows.

        Args:
            x: Map, shape (B, H, W, C).
            shifted: Whether windows are shifted by half their size (where the map holds more than one).

        Returns:
            Shape (B, H, W, C).
        """
        sizes = self.window_size
        if self.window_fit == 'balanced':
            sizes = tuple(balanced_window(*axis) for axis in zip(x.shape[1:3], sizes))
        axes = [AxisWindows.fit(length, size, size // 2 if shifted else 0)
                for length, size in zip(x.shape[1:3], sizes)]
        window, shift = tuple(axis.window for axis in axes), tuple(axis.shift for axis in axes)
        bias = None
        if self.q_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])  # (3C,)
        padding = None
        if not self.mask_padding:  # what the projection makes of a token of zeros
            padding = self.qkv.weight.new_zeros(self.qkv.out_features) if bias is None else bias
        x = self.backend(
            self.qkv(x, bias), self.bias_table(window), self.logit_scale,
            window=window, shift=shift, padding=padding, dropout=self.attn_drop_rate if self.training else 0.,
            budget=self.attn_budget_mib or (64 if x.device.type == 'cpu' else 512))
        return self.proj_drop(self.proj(x))
