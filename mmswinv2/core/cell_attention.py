"""Window attention cell by cell, without masks, padding or shift, and without a whole attention map.

Tokens that may attend to each other in shifted, masked windows are those of one *cell*: a cell of the grid of windows
moved by the shift and cut off at the borders of the map. Along an axis of 40 tokens, window 16, shift 8::

    windows of the padded, shifted axis   |8.............23|24............39|40......47 0......7|  padding, mask
    cells of the axis as it is       |0..7|8.............23|24............39|                      neither

So a map is at most nine groups of equal cells (three sizes per axis), each a strided view of the map and each with the
bias table of a smaller window, which is the middle of the larger one's. Within a group cells, heads and rows of queries
are taken in chunks that fit a budget. The backward pass computes probabilities again, chunk by chunk, and sums the
gradient of the bias as it goes.

Legend: B images, H W tokens, C channels, nH heads, d = C/nH, n cells of N tokens in a chunk.

Source:
    arXiv:2111.09883, section 3.5 (sequential self-attention computation; what is iterated over is not said there);
    the rows of a softmax are exact, so that no running maximum is needed.
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .operators import define_operator
from .position_bias import bias_from_table, crop_table
from .precision import without_autocast

MAX_LOGIT_SCALE = math.log(100)  # a temperature of at least 0.01
MIB = 2**20
CACHE_MIB = 4  # on a CPU larger blocks of logits are no faster
SAFE = (1e-18, 1e18)  # lengths whose squares neither under- nor overflow in float32


class Cells(NamedTuple):
    """Neighbouring cells of one size along an axis: first token, number of cells, tokens in each."""

    start: int
    count: int
    size: int


@lru_cache(maxsize=1024)
def axis_cells(length: int, window: int, shift: int) -> tuple[Cells, ...]:
    """The cells along an axis: the first ends at the shift, the last at the end of the map.

    Args:
        length: Tokens of the map along the axis.
        window: Tokens of a window, at most ``length``.
        shift: Tokens by which windows are shifted, less than ``window``.

    Returns:
        At most three groups that together hold each token once.
    """
    cells = [Cells(0, 1, shift)] if shift else []
    whole, rest = divmod(length - shift, window)
    if whole:
        cells.append(Cells(shift, whole, window))
    if rest:
        cells.append(Cells(length - rest, 1, rest))
    return tuple(cells)


class Chunk(NamedTuple):
    """Some cells of one group: where they are in the map, and (images, cells along H, h, cells along W, w)."""

    images: slice
    rows: slice
    cols: slice
    shape: tuple[int, int, int, int, int]

    def of(self, x: Tensor, heads: slice) -> Tensor:
        """The chunk's part of a map (B, H, W, nH, d), as a view of shape (heads, b, nh, nw, h, w, d)."""
        _, nh, h, nw, w = self.shape
        x = x[self.images, self.rows, self.cols, heads].unflatten(2, (nw, w)).unflatten(1, (nh, h))
        return x.permute(5, 0, 1, 3, 2, 4, 6)


def _chunks(batch: int, rows: Cells, cols: Cells, limit: int) -> Iterator[Chunk]:
    """Chunks of at most ``limit`` cells of one group."""
    b = min(batch, max(1, limit // (rows.count * cols.count)))
    r = min(rows.count, max(1, limit // cols.count))
    c = min(cols.count, max(1, limit))
    for i in range(0, batch, b):
        for j in range(0, rows.count, r):
            for k in range(0, cols.count, c):
                nb, nr, nc = min(b, batch - i), min(r, rows.count - j), min(c, cols.count - k)
                top, left = rows.start + j * rows.size, cols.start + k * cols.size
                yield Chunk(slice(i, i + nb), slice(top, top + nr * rows.size), slice(left, left + nc * cols.size),
                            (nb, nr, rows.size, nc, cols.size))


class Step(NamedTuple):
    """Work on cells of one size and some heads: its chunks, and the blocks of logits that each is taken in."""

    window: tuple[int, int]
    heads: slice
    chunks: list[Chunk]
    blocks: list[tuple[slice, slice]]  # (heads of the step, rows of queries)


def _plan(qkv: Tensor, num_heads: int, window: list[int], shift: list[int], budget: int, *,
          cached: bool) -> Iterator[Step]:
    """Cuts attention of a map into steps, none of which needs more than about ``budget`` bytes.

    A quarter is for the bias of a step's heads and its gradient (2 N N each), a quarter for a chunk's queries, keys,
    values, result and their gradients (about 8 n N d per head), the rest for three or four blocks of logits (n x rows
    x N). With ``cached`` a block is no larger than is good for a CPU.
    """
    batch, height, width, c3 = qkv.shape
    if not batch:
        return
    size, dim = max(4, qkv.element_size()), c3 // 3 // num_heads
    block = min(budget // 8, CACHE_MIB * MIB) if cached else budget // 8  # bytes
    for rows in axis_cells(height, window[0], shift[0]):
        for cols in axis_cells(width, window[1], shift[1]):
            n = rows.size * cols.size
            heads = max(1, min(num_heads, budget // 4 // (2 * n * n * size)))
            cells = max(1, budget // 4 // (8 * n * dim * heads * size))
            if cached:  # as many matrices as there are threads, or more small ones
                cells = min(cells, max(torch.get_num_threads(), block // (n * n * size)))
            cells = min(cells, max(1, block // (n * size)))  # at least one row of each
            chunks = list(_chunks(batch, rows, cols, cells))
            most = max(chunk.shape[0] * chunk.shape[1] * chunk.shape[3] for chunk in chunks)
            for first in range(0, num_heads, heads):
                count = min(heads, num_heads - first)
                together = max(1, min(count, block // (most * n * n * size)))  # heads
                at_once = max(1, min(n, block // (most * n * size)))  # rows
                blocks = [(slice(h, h + together), slice(i, i + at_once)) for h in range(0, count, together)
                          for i in range(0, n, at_once)]
                yield Step((rows.size, cols.size), slice(first, first + count), chunks, blocks)


def _contiguous(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(heads, b, nh, nw, h, w, d) as (heads, n, N, d) of another dtype, contiguous."""
    heads, b, nh, nw, h, w, d = x.shape
    return torch.empty(x.shape, dtype=dtype, device=x.device).copy_(x).view(heads, b * nh * nw, h * w, d)


def _unit(x: Tensor, dtype: torch.dtype, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows of length ``scale`` (heads, 1, 1), or 1, and the inverse of the length that they had; zeros stay zeros."""
    x = _contiguous(x, dtype)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    if x.device.type != 'cpu' or not (SAFE[0] <= length.min() and length.max() <= SAFE[1]):
        largest = x.abs().amax(-1, keepdim=True)
        largest = largest.masked_fill(largest == 0, 1)
        length = torch.linalg.vector_norm(x / largest, dim=-1, keepdim=True) * largest
    inverse = length.reciprocal().masked_fill_(length == 0, 0)
    return x.mul_(inverse if scale is None else inverse * scale[:, None]), inverse


def _scale(logit_scale: Tensor, dtype: torch.dtype) -> Tensor:
    return logit_scale.to(dtype).clamp(max=MAX_LOGIT_SCALE).exp()  # (nH, 1, 1)


def _bias(table: Tensor, window: tuple[int, int], heads: slice, dtype: torch.dtype) -> Tensor:
    return bias_from_table(crop_table(table[heads].to(dtype), window), window)  # (heads, N, N)


def _probabilities(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """Softmax of logits of a block: (heads, n, rows, d), (heads, n, N, d), (heads, rows, N) to (heads n, rows, N)."""
    heads, n = q.shape[:2]
    q, k = q.flatten(0, 1), k.flatten(0, 1)
    if heads == 1:
        return torch.baddbmm(bias, q, k.mT).softmax(-1)
    logits = torch.bmm(q, k.mT)
    logits.unflatten(0, (heads, n)).add_(bias[:, None])
    return logits.softmax(-1)


def _add_to_table(grad: Tensor, window: tuple[int, int], heads: slice, grad_table: Tensor) -> None:
    """Adds up a gradient of a bias, (heads, N, N), over pairs of one offset, into that of the table.

    Sums along diagonals are sums of columns once each row is moved one further; so along H, then along W.
    """
    (h, w), k = window, grad.shape[0]
    x = grad.view(k, h, w, h, w).permute(0, 2, 4, 1, 3)  # (k, w, w, h, h), queries before keys
    x = _sum_diagonals(x)  # (k, w, w, 2h-1)
    x = _sum_diagonals(x.permute(0, 3, 1, 2))  # (k, 2h-1, 2w-1)
    crop_table(grad_table[heads], window).add_(x)


def _sum_diagonals(x: Tensor) -> Tensor:
    """(..., n, n), row i and column j, to (..., 2n-1): sums over i - j = 1-n, ..., n-1."""
    n = x.shape[-1]
    x = F.pad(x.flip(-1), (0, n)).flatten(-2)[..., :-n]  # row i begins at i (2n) = i (2n-1) + i
    return x.unflatten(-1, (n, 2 * n - 1)).sum(-2)


def _generator(seed: Tensor, device: torch.device) -> torch.Generator | None:
    return torch.Generator(device).manual_seed(int(seed)) if seed.numel() else None


def attend(qkv: Tensor, table: Tensor, logit_scale: Tensor, seed: Tensor, window: list[int], shift: list[int],
                   dropout: float, budget: int, fused: bool) -> Tensor:
    """Scaled cosine attention within the cells of a map.

    Args:
        qkv: Queries, keys and values, (B, H, W, 3C), the last axis being (3, nH, d).
        table: (nH, 2Wh-1, 2Ww-1).
        logit_scale: (nH, 1, 1).
        seed: int64, (1,), for dropout; empty without.
        window: (Wh, Ww) in tokens, at most the map.
        shift: (h, w) in tokens.
        dropout: Rate on the attention probabilities.
        budget: Bytes that intermediate results may take, about.
        fused: Whether ``F.scaled_dot_product_attention`` computes the forward pass; it does not where there is dropout.

    Returns:
        (B, H, W, C), dtype of ``qkv``. Logits, softmax and sums are in float32, float64 for float64.
    """
    num_heads = logit_scale.shape[0]
    maps = qkv.unflatten(3, (3, num_heads, -1)).unbind(3)  # each (B, H, W, nH, d)
    out = torch.empty(maps[0].shape, dtype=qkv.dtype, device=qkv.device)
    dtype = torch.promote_types(qkv.dtype, torch.float32)
    scale = _scale(logit_scale, dtype)
    generator = _generator(seed, qkv.device)
    with without_autocast(qkv.device):
        whole = fused and generator is None
        for window, heads, chunks, blocks in _plan(qkv, num_heads, window, shift, budget,
                                                   cached=qkv.device.type == 'cpu' and not whole):
            bias = _bias(table, window, heads, dtype)
            for chunk in chunks:
                q, k, v = (chunk.of(x, heads) for x in maps)
                q, _ = _unit(q, dtype, scale[heads])
                k, _ = _unit(k, dtype, None)
                v = _contiguous(v, dtype)  # each (heads, n, N, d)
                if whole:
                    result = F.scaled_dot_product_attention(*(t.transpose(0, 1) for t in (q, k, v)),
                                                            attn_mask=bias[None], scale=1.).transpose(0, 1)
                else:
                    result = torch.empty_like(v)
                    for hs, at in blocks:
                        p = _probabilities(q[hs, :, at], k[hs], bias[hs, at])
                        if generator is not None:
                            p.mul_(_keep(p, dropout, generator))
                        result[hs, :, at].flatten(0, 1).copy_(torch.bmm(p, v[hs].flatten(0, 1)))
                target = chunk.of(out, heads)
                target.copy_(result.reshape(target.shape))
    return out.flatten(3)


def attend_backward(grad_out: Tensor, out: Tensor, qkv: Tensor, table: Tensor, logit_scale: Tensor, seed: Tensor,
                    window: list[int], shift: list[int], dropout: float, budget: int,
                    fused: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`attend` with respect to ``qkv``, ``table`` and ``logit_scale``; arguments as there."""
    num_heads = logit_scale.shape[0]
    grad_qkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    maps, grad_maps = (x.unflatten(3, (3, num_heads, -1)).unbind(3) for x in (qkv, grad_qkv))
    out, grad_out = (x.unflatten(3, (num_heads, -1)) for x in (out, grad_out))
    dtype = torch.promote_types(qkv.dtype, torch.float32)
    scale = _scale(logit_scale, dtype)
    grad_table = torch.zeros(table.shape, dtype=dtype, device=table.device)
    grad_scale = torch.zeros(num_heads, dtype=dtype, device=table.device)
    generator = _generator(seed, qkv.device)
    with without_autocast(qkv.device):
        for window, heads, chunks, blocks in _plan(qkv, num_heads, window, shift, budget,
                                                   cached=qkv.device.type == 'cpu'):
            bias = _bias(table, window, heads, dtype)
            grad_bias = torch.zeros_like(bias)
            for chunk in chunks:
                q, k, v = (chunk.of(x, heads) for x in maps)
                q, inverse_q = _unit(q, dtype, scale[heads])
                k, inverse_k = _unit(k, dtype, None)
                v = _contiguous(v, dtype)  # each (heads, n, N, d)
                grad = _contiguous(chunk.of(grad_out, heads), dtype)
                # sum over keys of probability times its gradient
                delta = (_contiguous(chunk.of(out, heads), dtype) * grad).sum(-1, keepdim=True)
                grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
                for hs, at in blocks:
                    q_, grad_ = q[hs, :, at], grad[hs, :, at].flatten(0, 1)
                    k_, v_ = k[hs].flatten(0, 1), v[hs].flatten(0, 1)
                    p = _probabilities(q_, k[hs], bias[hs, at])
                    grad_p = torch.bmm(grad_, v_.mT)
                    if generator is None:
                        grad_v[hs].flatten(0, 1).baddbmm_(p.mT, grad_)
                    else:
                        keep = _keep(p, dropout, generator)
                        grad_v[hs].flatten(0, 1).baddbmm_((p * keep).mT, grad_)
                        grad_p.mul_(keep)
                    grad_s = grad_p.sub_(delta[hs, :, at].flatten(0, 1)).mul_(p)
                    grad_bias[hs, at].add_(grad_s.unflatten(0, q_.shape[:2]).sum(1))
                    grad_q[hs, :, at].flatten(0, 1).copy_(torch.bmm(grad_s, k_))
                    grad_k[hs].flatten(0, 1).baddbmm_(grad_s.mT, q_.flatten(0, 1))
                s = scale[heads, None]  # (heads, 1, 1, 1)
                along = (grad_q * q).sum(-1, keepdim=True)  # of the unit vector, along itself
                grad_scale[heads] += along.sum((1, 2, 3))
                grad_q = grad_q.mul_(s).addcmul_(q, along / -s).mul_(inverse_q)
                along = (grad_k * k).sum(-1, keepdim=True)
                grad_k = grad_k.addcmul_(k, -along).mul_(inverse_k)
                for target, g in zip(grad_maps, (grad_q, grad_k, grad_v)):
                    target = chunk.of(target, heads)
                    target.copy_(g.view(target.shape))
            _add_to_table(grad_bias, window, heads, grad_table)
    grad_scale = grad_scale.view_as(logit_scale).masked_fill(logit_scale > MAX_LOGIT_SCALE, 0)
    return grad_qkv, grad_table.to(table.dtype), grad_scale.to(logit_scale.dtype)


def _keep(p: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """What dropout multiplies probabilities by: 0, or 1 / (1 - rate)."""
    return torch.empty_like(p).bernoulli_(1 - dropout, generator=generator).div_(1 - dropout)


def _fake(qkv, table, logit_scale, seed, window, shift, dropout, budget, fused):
    return qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)


def _fake_backward(grad_out, out, qkv, table, logit_scale, seed, window, shift, dropout, budget, fused):
    return torch.empty_like(qkv), torch.empty_like(table), torch.empty_like(logit_scale)


def _setup_context(ctx, inputs, output) -> None:
    qkv, table, logit_scale, seed, *ctx.options = inputs
    ctx.save_for_backward(output, qkv, table, logit_scale, seed)


def _backward(ctx, grad_out: Tensor):
    return *cell_attention_backward(grad_out, *ctx.saved_tensors, *ctx.options), *[None] * 6


def _refuse(ctx, *grads):
    raise RuntimeError("attention must be differentiated once only, got a double backward: cell_attention_backward has "
                       "no derivative; attn_backend='reference' has gradients of any order")


def _refuse_forward_mode(ctx, *tangents):
    raise RuntimeError("attention must be differentiated in reverse mode, got a forward-mode derivative (jvp, jacfwd, "
                       "dual numbers): cell_attention has none; attn_backend='reference' has derivatives of any order")


_SHARED = 'Tensor qkv, Tensor table, Tensor logit_scale, Tensor seed, int[] window, int[] shift, float dropout, ' \
    'int budget, bool fused'
cell_attention = define_operator(
    'cell_attention', f'({_SHARED}) -> Tensor', attend, fake=_fake, backward=_backward, jvp=_refuse_forward_mode,
    setup_context=_setup_context)
cell_attention_backward = define_operator(
    'cell_attention_backward', f'(Tensor grad_out, Tensor out, {_SHARED}) -> (Tensor, Tensor, Tensor)', attend_backward,
    fake=_fake_backward, backward=_refuse, jvp=_refuse_forward_mode, setup_context=lambda ctx, inputs, output: None)
