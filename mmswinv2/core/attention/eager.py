"""The formula of window attention, group by group, with whole attention maps; derivatives of any order and mode.

It is written twice: as operations that autograd and its transforms follow, and as one function with its derivative
written out. The function has fewer calls, and is used where only a first derivative in reverse mode is needed. Its
second derivative goes back to the operations.
"""
from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..grid import Grid, cell_sizes, copy_cells, cut, groups, is_symbolic, paste, put_cells, take
from ..position_bias import expand, expand_cells, fold_cells
from ..torch_compat import is_transformed, without_autocast
from ..whole_windows import cut_whole, paste_whole
from .problem import Backend, Problem

MAX_LOGIT_SCALE = math.log(100)  # a temperature of at least 0.01
SAFE = (1e-18, 1e18)  # lengths whose squares neither under- nor overflow in float32


def scale_of(logit_scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The factor on cosines: ``exp(min(logit_scale, log 100))``, in ``dtype``."""
    return logit_scale.to(dtype).clamp(max=MAX_LOGIT_SCALE).exp()


def cosine_normalize(x: Tensor, scale: Tensor | None = None) -> Tensor:
    """Divides each row by its length, in float32 or better; a row of zeros gives zeros with a zero gradient.

    ``F.normalize`` divides by ``max(|x|, eps)``: another function for short rows, with a gradient of 1/eps at zero.
    Keys of padding tokens are exactly zero, and in half precision that gradient becomes NaN.

    Args:
        x: Shape (..., d), any floating dtype.
        scale: Length of the resulting rows instead of 1, a shape that broadcasts to (..., 1).

    Returns:
        Shape (..., d), float32 (float64 for float64).
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    # rows are scaled to a largest entry of 1 first, so that no square under- or overflows
    largest = x.detach().abs().amax(-1, keepdim=True)
    zero = largest == 0
    x = x / largest.masked_fill(zero, 1)
    inverse = x.square().sum(-1, keepdim=True).masked_fill(zero, 1).rsqrt().masked_fill(zero, 0)
    return x * (inverse if scale is None else scale * inverse)


def unit_rows(x: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As :func:`cosine_normalize`, of float32 or float64 in place, for kernels: without a derivative.

    Returns:
        (``x``, the inverse of each row's former length, 0 for a row of zeros, shape (..., 1)).
    """
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    if _squares_are_safe(length):
        inverse = length.reciprocal_()
    else:
        largest = x.abs().amax(-1, keepdim=True)
        largest = largest.masked_fill(largest == 0, 1)
        length = torch.linalg.vector_norm(x / largest, dim=-1, keepdim=True) * largest
        inverse = length.reciprocal().masked_fill(length == 0, 0)
    return x.mul_(inverse if scale is None else inverse * scale), inverse


def _squares_are_safe(length: Tensor) -> bool:
    """Whether lengths are known to be in range; only CPU values are read, since reading others waits for the device."""
    if type(length) is not Tensor or length.device.type != 'cpu' or not length.numel() or is_transformed():
        return False
    low, high = length.aminmax()
    return SAFE[0] <= low.item() and high.item() <= SAFE[1]


def eager_attention(problem: Problem) -> Tensor:
    """Attends with whole attention maps, in float32 (float64 for float64) also under autocast; ignores the budget."""
    tensors = problem.qkv, problem.table, problem.logit_scale
    if is_transformed():
        return _formula(*tensors, problem.grid, problem.dropout)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return _Eager.apply(*tensors, problem.grid, problem.dropout)
    return _forward(*tensors, problem.grid, problem.dropout, needed=False)[0]


def _formula(qkv: Tensor, table: Tensor, logit_scale: Tensor, grid: Grid, dropout: float,
             keep: Sequence[Tensor] = ()) -> Tensor:
    """The formula in operations that have derivatives; ``keep``: each group's dropout factors, if already drawn."""
    num_heads, dtype = logit_scale.numel(), torch.promote_types(qkv.dtype, torch.float32)
    with without_autocast(qkv.device):
        scale = scale_of(logit_scale, dtype).view(num_heads, 1, 1, 1)
        maps, table = qkv.unflatten(-1, (3 * num_heads, -1)), table.to(dtype)
        if is_symbolic(grid):
            rows, masked = cut_whole(maps, grid)
            out = paste_whole(_attend(rows, scale, expand(table), dropout, masked=masked), qkv.shape[0], grid)
        else:
            cells = zip(cut(maps, grid), expand_cells(table, cell_sizes(grid)), keep or itertools.repeat(None))
            out = paste([_attend(rows, scale, bias, dropout, keep=factors) for rows, bias, factors in cells],
                        qkv.shape[0], grid)
        return out.flatten(-2).to(qkv.dtype)


def _attend(rows: Tensor, scale: Tensor, bias: Tensor, dropout: float, *, keep: Tensor | None = None,
            masked: Tensor | None = None) -> Tensor:
    """Attends within cells, (3 nH, cells, N, d) to (nH, cells, N, d); nothing attends to ``masked`` (cells, N)."""
    q, k, v = rows.chunk(3)
    q, k, v = cosine_normalize(q, scale), cosine_normalize(k), v.to(bias.dtype)
    shape, n = q.shape, q.shape[2]
    logits = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).mT).view(*shape[:3], n) + bias[:, None]
    if masked is not None:
        logits = logits.masked_fill(masked[:, None], -torch.inf)
    p = logits.softmax(-1).flatten(0, 1)
    p = F.dropout(p, dropout) if keep is None else p * keep
    return torch.bmm(p, v.flatten(0, 1)).view(shape)


def _forward(qkv: Tensor, table: Tensor, logit_scale: Tensor, grid: Grid, dropout: float, *,
             needed: bool) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor | None]]]:
    """Computes attention.

    Returns:
        (result, per group what a backward pass needs: one over the length of each row of queries and keys
        (2 nH, cells, N, 1), probabilities (nH cells, N, N), their dropout factors or None). The list is empty unless
        ``needed``.
    """
    num_heads, dtype = logit_scale.numel(), torch.promote_types(qkv.dtype, torch.float32)
    maps = qkv.unflatten(-1, (3 * num_heads, -1))
    out = qkv.new_empty(*maps.shape[:-2], num_heads, maps.shape[-1])
    kept = []
    with without_autocast(qkv.device):
        scale = scale_of(logit_scale, dtype).view(-1, 1, 1, 1)
        for group, bias in zip(groups(grid), expand_cells(table.to(dtype), cell_sizes(grid))):
            rows = copy_cells(take(maps, group), dtype)
            inverse = unit_rows(rows[:2 * num_heads])[1]
            q, k, v = rows.view(3, -1, *rows.shape[2:])
            p = _probabilities(q, k, scale, bias)
            keep = torch.empty_like(p).bernoulli_(1 - dropout).div_(1 - dropout) if dropout else None
            put_cells(out, group, torch.bmm(p if keep is None else p * keep, v))
            if needed:
                kept.append((inverse, p, keep))
            del p  # before that of the next group
    return out.flatten(-2), kept


def _probabilities(q: Tensor, k: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    logits = torch.bmm(q, k.mT)
    cells = logits.view(len(bias), -1, *bias.shape[1:])
    torch.addcmul(bias[:, None], cells, scale, out=cells)
    return logits.softmax(-1)


class _Eager(torch.autograd.Function):
    """:func:`_formula` in fewer calls."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, table: Tensor, logit_scale: Tensor, grid: Grid, dropout: float) -> Tensor:
        out, kept = _forward(qkv, table, logit_scale, grid, dropout, needed=True)
        ctx.grid = grid
        ctx.save_for_backward(qkv, table, logit_scale, *itertools.chain(*kept))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, table, logit_scale, *kept = ctx.saved_tensors
        kept = list(zip(kept[::3], kept[1::3], kept[2::3]))
        if not torch.is_grad_enabled():
            return *_backward(grad, qkv, table, logit_scale, ctx.grid, kept), None, None
        needed = ctx.needs_input_grad[:3]
        tensors = [t for t, is_needed in zip((qkv, table, logit_scale), needed) if is_needed]
        keep = [keep for *_, keep in kept if keep is not None]
        out = _formula(qkv, table, logit_scale, ctx.grid, 0., keep)
        grads = iter(torch.autograd.grad(out, tensors, grad, create_graph=True))
        return *(next(grads) if is_needed else None for is_needed in needed), None, None


def _backward(grad: Tensor, qkv: Tensor, table: Tensor, logit_scale: Tensor, grid: Grid,
              kept: list[tuple[Tensor, Tensor, Tensor | None]]) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to ``qkv``, ``table`` and ``logit_scale``."""
    num_heads, dtype = logit_scale.numel(), torch.promote_types(qkv.dtype, torch.float32)
    grad = grad.unflatten(-1, (num_heads, -1))
    with without_autocast(qkv.device):
        maps = qkv.unflatten(-1, (3 * num_heads, -1))
        scale = scale_of(logit_scale, dtype).view(-1, 1, 1, 1)
        grads, grad_biases, grad_scale = torch.empty_like(maps), [], torch.zeros_like(scale.flatten())
        for group, (inverse, p, keep) in zip(groups(grid), kept):
            g = copy_cells(take(grad, group), dtype).flatten(0, 1)
            rows = copy_cells(take(maps, group), dtype)
            rows[:2 * num_heads].mul_(inverse)
            rows = rows.view(3, *g.shape)
            grad_rows, grad_bias = _backward_of_cells(g, rows, p, keep, num_heads)
            # lengths of rows have no effect: gradients of unit rows lose their part along them
            along = (grad_rows[:2] * rows[:2]).sum(-1, keepdim=True)  # (2, nH cells, N, 1)
            grad_rows[:2].addcmul_(rows[:2], along, value=-1)
            factors = inverse.view(2, num_heads, *inverse.shape[1:]) * scale
            grad_rows[:2].view(*factors.shape[:-1], g.shape[-1]).mul_(factors)
            put_cells(grads, group, grad_rows)
            grad_scale += along[0].view(num_heads, -1).sum(1)
            grad_biases.append(grad_bias)
        grad_table = fold_cells(grad_biases, [axis.window for axis in grid], cell_sizes(grid))
    grad_scale = (grad_scale * scale.flatten()).view_as(logit_scale).masked_fill(logit_scale > MAX_LOGIT_SCALE, 0)
    return grads.flatten(-2), grad_table.to(table.dtype), grad_scale.to(logit_scale.dtype)


def _backward_of_cells(grad: Tensor, rows: Tensor, p: Tensor, keep: Tensor | None,
                       num_heads: int) -> tuple[Tensor, Tensor]:
    """Gradients of rows, (3, nH cells, N, d), but of queries and keys over the scale; of the bias, (nH, N, N)."""
    q, k, v = rows
    grad_rows = grad.new_empty(3, *grad.shape)
    torch.bmm((p if keep is None else p * keep).mT, grad, out=grad_rows[2])
    grad_p = torch.bmm(grad, v.mT)
    if keep is not None:
        grad_p *= keep
    grad_s = torch.ops.aten._softmax_backward_data(grad_p, p, -1, p.dtype)
    torch.bmm(grad_s, k, out=grad_rows[0])
    torch.bmm(grad_s.mT, q, out=grad_rows[1])
    return grad_rows, grad_s.view(num_heads, -1, *p.shape[1:]).sum(1)


BACKEND = Backend('eager', eager_attention, lambda problem: None)
