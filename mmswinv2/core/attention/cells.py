"""Window attention chunk by chunk within a memory budget, forward and backward: no attention map is materialised.

A group of cells is a strided view of the map; its bias is the middle of the window's table. Within a group, cells,
heads and query rows are processed in chunks that fit the budget. Each softmax row is complete, so no running maximum is
needed. The backward pass recomputes probabilities and accumulates the gradient of the bias.

Legend: B images, *map tokens along each axis, C channels, nH heads, d = C/nH, n cells of N tokens in a chunk.

Source:
    arXiv:2111.09883, section 3.5 (sequential self-attention computation; the paper does not say what it iterates over).
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from ..grid import Grid, Group, copy_cells, divide, groups, put_cells, take
from ..position_bias import crop, expand, fold
from ..torch_compat import device_type, without_autocast
from .eager import MAX_LOGIT_SCALE, scale_of, unit_rows
from .operator import empty_results, kernel_backend

CACHED = 4 * 2**20  # bytes; on a CPU larger blocks of logits are no faster


class Chunk(NamedTuple):
    """Cells of one size in some images, and some heads of them."""

    images: slice
    group: Group
    heads: slice

    def of(self, x: Tensor) -> Tensor:
        """The chunk's part of a map (B, *map, nH, d), as a view of shape (heads, b, *counts, *sizes, d)."""
        return take(x[self.images][..., self.heads, :], self.group)

    def put(self, x: Tensor, cells: Tensor) -> None:
        """Writes (heads, n, N, d) to the chunk's part of a map."""
        put_cells(x[self.images][..., self.heads, :], self.group, cells)


class Step(NamedTuple):
    """Cells of one size (tokens along each axis) and some heads: the step's chunks, and the blocks of logits within
    each chunk, as (heads of the step, query rows)."""

    size: tuple[int, ...]
    heads: slice
    chunks: list[Chunk]
    blocks: list[tuple[slice, slice]]


def plan(qkv: Tensor, num_heads: int, grid: Grid, budget: int, *, cached: bool) -> Iterator[Step]:
    """Cuts attention of a map into steps, each of which needs at most about ``budget`` bytes.

    A quarter is for the bias of a step's heads and its gradient (2 N N each), a quarter for a chunk's queries, keys,
    values, result and their gradients (about 8 n N d per head), the rest for three or four blocks of logits (n x rows
    x N). With ``cached``, blocks are limited to the size that suits a CPU's cache.
    """
    batch, width = qkv.shape[0], max(4, qkv.element_size())
    dim = qkv.shape[-1] // 3 // num_heads
    block = min(budget // 8, CACHED) if cached else budget // 8  # bytes
    for group in groups(grid) if batch else ():
        size = tuple(run.size for run in group)
        n = prod(size)
        heads = max(1, min(num_heads, budget // 4 // (2 * n * n * width)))
        limit = max(1, budget // 4 // (8 * n * dim * heads * width))  # cells
        if cached:  # as many matrices as there are threads, or more small ones
            limit = min(limit, max(torch.get_num_threads(), block // (n * n * width)))
        limit = min(limit, max(1, block // (n * width)))  # at least one row of each
        parts = list(divide(batch, group, limit))
        most = max((images.stop - images.start) * prod(run.count for run in part) for images, part in parts)
        for first in range(0, num_heads, heads):
            which = slice(first, min(first + heads, num_heads))
            count = which.stop - first
            together = max(1, min(count, block // (most * n * n * width)))  # heads
            at_once = max(1, min(n, block // (most * n * width)))  # rows
            blocks = [(slice(h, h + together), slice(i, i + at_once)) for h in range(0, count, together)
                      for i in range(0, n, at_once)]
            yield Step(size, which, [Chunk(*part, which) for part in parts], blocks)


def forward(qkv: Tensor, table: Tensor, logit_scale: Tensor, seed: Tensor | None, grid: Grid,
            dropout: float, budget: int) -> tuple[Tensor, Tensor]:
    """Scaled cosine attention within the cells of a map.

    Args:
        qkv: Queries, keys and values, (B, *map, 3C), the last axis being (3, nH, d).
        table: (nH, 2W-1, ...).
        logit_scale: nH elements.
        seed: int64, (1,), for dropout; None without.
        grid: One axis of windows per axis of the map.
        dropout: Rate on the probabilities.
        budget: Bytes.

    Returns:
        (result (B, *map, C) in the dtype of ``qkv``, log-sum-exp of each row of logits (B, *map, nH)). Logits, softmax
        and sums are in float32, float64 for float64.
    """
    num_heads, dtype = logit_scale.numel(), torch.promote_types(qkv.dtype, torch.float32)
    maps = _maps(qkv, num_heads)
    out, lse = empty_results(qkv, logit_scale)
    out_map, lse_map = out.unflatten(-1, (num_heads, -1)), lse[..., None]
    generator, kind = _generator(seed, qkv.device), device_type(qkv.device)
    fused = FUSED.get((kind, dtype)) if generator is None else None
    with without_autocast(qkv.device):
        scale = scale_of(logit_scale, dtype).view(num_heads, 1, 1, 1)
        for step in plan(qkv, num_heads, grid, budget, cached=kind == 'cpu' and fused is None):
            bias = _bias(table, step, dtype)
            for chunk in step.chunks:
                q, k, v = (copy_cells(chunk.of(x), dtype) for x in maps)
                q, k = unit_rows(q, scale[step.heads])[0], unit_rows(k)[0]  # each (heads, n, N, d)
                if fused is not None:
                    result, sums = fused(q, k, v, bias)
                else:
                    result, sums = torch.empty_like(v), q.new_empty(*q.shape[:3], 1)
                    for hs, at in step.blocks:
                        logits = _logits(q[hs, :, at], k[hs], bias[hs, at])
                        p = logits.softmax(-1)
                        # from the largest entry: no second pass of exponentials
                        sums[hs, :, at] = (logits.amax(-1, keepdim=True)
                                           - p.amax(-1, keepdim=True).log()).view(sums[hs, :, at].shape)
                        if generator is not None:
                            p.mul_(_keep(p, dropout, generator))
                        result[hs, :, at].flatten(0, 1).copy_(torch.bmm(p, v[hs].flatten(0, 1)))
                chunk.put(out_map, result)
                chunk.put(lse_map, sums)
    return out, lse


def backward(grad_out: Tensor, qkv: Tensor, table: Tensor, logit_scale: Tensor, seed: Tensor | None, out: Tensor,
             lse: Tensor, grid: Grid, dropout: float, budget: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`forward` with respect to ``qkv``, ``table`` and ``logit_scale``.

    Every kernel is given ``out`` and ``lse``; this one needs neither. Probabilities are recomputed by a softmax of the
    logits, which is faster in torch than ``exp(logits - lse)``. The part of their gradient along the probabilities is
    computed from these, not from the rounded result.
    """
    num_heads, dtype = logit_scale.numel(), torch.promote_types(qkv.dtype, torch.float32)
    grad_qkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    maps, grad_maps = _maps(qkv, num_heads), _maps(grad_qkv, num_heads)
    grad_out = grad_out.unflatten(-1, (num_heads, -1))
    grad_table = torch.zeros(table.shape, dtype=dtype, device=table.device)
    grad_scale = torch.zeros(num_heads, dtype=dtype, device=table.device)
    generator = _generator(seed, qkv.device)
    with without_autocast(qkv.device):
        scale = scale_of(logit_scale, dtype).view(num_heads, 1, 1, 1)
        for step in plan(qkv, num_heads, grid, budget, cached=device_type(qkv.device) == 'cpu'):
            bias = _bias(table, step, dtype)
            grad_bias = torch.zeros_like(bias)
            s = scale[step.heads]
            for chunk in step.chunks:
                q, k, v, grad = (copy_cells(chunk.of(x), dtype) for x in (*maps, grad_out))  # each (heads, n, N, d)
                (q, inverse_q), (k, inverse_k) = unit_rows(q, s), unit_rows(k)
                grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
                for hs, at in step.blocks:
                    q_, grad_ = q[hs, :, at].flatten(0, 1), grad[hs, :, at].flatten(0, 1)
                    k_, v_ = k[hs].flatten(0, 1), v[hs].flatten(0, 1)
                    p = _logits(q[hs, :, at], k[hs], bias[hs, at]).softmax(-1)
                    grad_p = torch.bmm(grad_, v_.mT)
                    if generator is None:
                        grad_v[hs].flatten(0, 1).baddbmm_(p.mT, grad_)
                    else:
                        keep = _keep(p, dropout, generator)
                        grad_v[hs].flatten(0, 1).baddbmm_((p * keep).mT, grad_)
                        grad_p.mul_(keep)
                    grad_s = torch.ops.aten._softmax_backward_data(grad_p, p, -1, dtype)
                    grad_bias[hs, at].add_(grad_s.unflatten(0, (-1, q.shape[1])).sum(1))
                    grad_q[hs, :, at].flatten(0, 1).copy_(torch.bmm(grad_s, k_))
                    grad_k[hs].flatten(0, 1).baddbmm_(grad_s.mT, q_)
                along = (grad_q * q).sum(-1, keepdim=True)  # of the unit vector, along itself
                grad_scale[step.heads] += along.sum((1, 2, 3))
                grad_q = grad_q.mul_(s).addcmul_(q, along / -s.clamp(min=torch.finfo(dtype).tiny)).mul_(inverse_q)
                along = (grad_k * k).sum(-1, keepdim=True)
                grad_k = grad_k.addcmul_(k, -along).mul_(inverse_k)
                for target, g in zip(grad_maps, (grad_q, grad_k, grad_v)):
                    chunk.put(target, g)
            crop(grad_table[step.heads], step.size).add_(fold(grad_bias, step.size))
    grad_scale = grad_scale.view_as(logit_scale).masked_fill(logit_scale > MAX_LOGIT_SCALE, 0)
    return grad_qkv, grad_table.to(table.dtype), grad_scale.to(logit_scale.dtype)


def _maps(qkv: Tensor, num_heads: int) -> tuple[Tensor, ...]:
    """Views of queries, keys and values, each (B, *map, nH, d)."""
    return qkv.unflatten(-1, (3, num_heads, -1)).unbind(-3)


def _bias(table: Tensor, step: Step, dtype: torch.dtype) -> Tensor:
    """The bias of a step's cells, (heads, N, N)."""
    return expand(crop(table[step.heads], step.size).to(dtype))


def _logits(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """Logits of a block: (heads, n, rows, d), (heads, n, N, d), (heads, rows, N) to (heads n, rows, N)."""
    heads, n = q.shape[:2]
    q, k = q.flatten(0, 1), k.flatten(0, 1)
    if heads == 1:
        return torch.baddbmm(bias, q, k.mT)
    logits = torch.bmm(q, k.mT)
    logits.unflatten(0, (heads, n)).add_(bias[:, None])
    return logits


def _generator(seed: Tensor | None, device: torch.device) -> torch.Generator | None:
    return None if seed is None else torch.Generator(device).manual_seed(int(seed))


def _keep(p: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """Dropout factors on probabilities: 0, or 1 / (1 - rate)."""
    return torch.empty_like(p).bernoulli_(1 - dropout, generator=generator).div_(1 - dropout)


def _fused_cpu(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of a chunk by torch's kernel, with the log-sum-exp: (heads, n, N, d), (heads, n, N, 1)."""
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *(x.transpose(0, 1) for x in (q, k, v)), attn_mask=bias[None], scale=1.)
    return out.transpose(0, 1), lse.transpose(0, 1)[..., None]


def _fused_cuda(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The same on CUDA, whose kernel requires rows of the bias to begin at multiples of 16 elements."""
    n = q.shape[2]
    bias = torch.nn.functional.pad(bias, (0, -n % 16))[None, :, :, :n].expand(q.shape[1], -1, -1, -1)
    out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        *(x.transpose(0, 1) for x in (q, k, v)), bias, True, scale=1.)
    return out.transpose(0, 1), lse[..., :n].transpose(0, 1)[..., None]


def has_argument(name: str, argument: str) -> bool:
    """Whether torch has an operator with that argument."""
    operator = getattr(torch.ops.aten, name, None)
    return operator is not None and any(a.name == argument for a in operator.default._schema.arguments)


FUSED: dict[tuple[str, torch.dtype], Callable[..., tuple[Tensor, Tensor]]] = {}  # by device and dtype
if has_argument('_scaled_dot_product_flash_attention_for_cpu', 'attn_mask'):
    FUSED |= {('cpu', dtype): _fused_cpu for dtype in (torch.float32, torch.float64)}
if has_argument('_scaled_dot_product_efficient_attention', 'attn_bias'):
    FUSED['cuda', torch.float32] = _fused_cuda

BACKEND = kernel_backend('cells', forward, backward)
