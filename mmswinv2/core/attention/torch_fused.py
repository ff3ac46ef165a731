"""Window attention by torch's fused kernel, in float16: few large calls on a GPU, no attention map in float32.

The whole map is normalised at once, then processed cell by cell (:mod:`.row_order`). Cells of one size are one call of
torch's memory-efficient attention with the bias. A call of the backward pass writes the gradient of the bias per cell,
so it takes only as many cells as the budget allows. Nothing waits for the device and nothing depends on values, so a
CUDA graph can hold it once a map of its size was seen.

Precision. Queries and keys are unit vectors in float16, for bfloat16 input too: its 8 bits would be 0.3 off in a logit
at a scale of 100. The scale is on the keys. Each row is first divided, exactly, by a power of two near its largest
entry: no square under- or overflows. Values and the gradient of the result are divided by a power of two per head, to
fit float16. The bias is float16; statistics of the softmax, sums over cells, and the gradients of table and scale are
float32. The part of a gradient along probabilities is computed from the rounded result, as in other fused kernels. It
nearly cancels in the gradient of the scale, so most of its error is removed there (:func:`_less_of_a_shift`).

Deterministic: the backward kernel does not split keys, whose parts would be summed in any order.

Legend: B images, *map tokens along each axis, T tokens of all images, C channels, nH heads, d = C/nH, R rows (cell by
cell), n cells of N tokens in a call.

Source:
    pytorch/pytorch, ``aten/src/ATen/native/transformers/cuda/attention_backward.cu``: ``_efficient_attention_backward``
    (layouts, alignment, ``num_splits_key``).
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..grid import Grid
from ..position_bias import crop, expand, fold
from ..torch_compat import device_type, without_autocast
from .cells import has_argument
from .eager import MAX_LOGIT_SCALE, scale_of
from .operator import empty_results, kernel_backend
from .problem import Problem
from .row_order import Part, RowOrder, row_order

HALF, SINGLE = torch.float16, torch.float32
EXPONENT = 0x7F800000  # bits of a float32
SMALLEST, LARGEST = 0x00800000, 0x7E800000  # powers of two whose inverse is one too: 2^-126, 2^126
ALIGNED = 16  # elements at which rows of the bias begin
ROWS = 32  # to which the kernel rounds rows of its log-sum-exp
MOST_CELLS = 65535  # of a call: the kernel's grid


def fused_forward(qkv: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of cells by torch's kernel.

    Args:
        qkv: float16, (n, N, 3, nH, d).
        bias: float16, (n, nH, N, N), rows aligned.

    Returns:
        (result (n, N, nH, d), log-sum-exp float32, (n, nH, N rounded up to ``ROWS``)).
    """
    q, k, v = (x.transpose(1, 2) for x in qkv.unbind(2))
    out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, scale=1.)
    return out.transpose(1, 2), lse


def fused_backward(grad_out: Tensor, qkv: Tensor, bias: Tensor, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`fused_forward`: of ``qkv``, and of the bias of each cell, (n, nH, N, N), both float16."""
    q, k, v = qkv.unbind(2)
    n, seed = q.shape[1], torch.empty((), dtype=torch.int64, device=q.device)  # of dropout: not read
    grad_q, _, _, grad_bias = torch.ops.aten._efficient_attention_backward(
        grad_out, q, k, v, bias, out, None, None, n, n, lse, 0., seed, seed, 0, True, scale=1., num_splits_key=1,
        shared_storage_dqdkdv=True)
    # the three are one tensor, which begins with that of queries
    strides = [math.prod(qkv.shape[i:]) for i in range(1, qkv.ndim + 1)]
    return grad_q.as_strided(qkv.shape, strides), grad_bias


def forward(qkv: Tensor, table: Tensor, logit_scale: Tensor, seed: None, grid: Grid, dropout: float,
            budget: int) -> tuple[Tensor, Tensor]:
    """Scaled cosine attention within the cells of a map, as :func:`.cells.forward`; without dropout.

    Takes at most two copies of ``qkv`` in float16, beside the budget, which is for biases of masked windows.
    """
    out, lse = empty_results(qkv, logit_scale)
    if not len(qkv):
        return out, lse
    num_heads = logit_scale.numel()
    with without_autocast(qkv.device):
        order = row_order(len(qkv), grid, qkv.device)
        x, *_, powers = _prepare(qkv, logit_scale, order)
        out_rows = torch.empty(len(x), *x.shape[2:], dtype=qkv.dtype, device=qkv.device)  # (R, nH, d)
        lse_rows = torch.empty(len(x), num_heads, dtype=SINGLE, device=qkv.device)
        for part, biases in _biases(table, order):
            for at, bias in _calls(part, biases, order, budget, differentiated=False):
                result, sums = fused_forward(_cells(x[at], part), bias)
                torch.mul(result, powers[0, 2, :, None], out=_cells(out_rows[at], part))
                _cells(lse_rows[at], part).copy_(sums[..., :part.tokens].mT)
        out = out_rows.flatten(1).index_select(0, order.places).view(out.shape)
        return out, lse_rows.index_select(0, order.places).view(lse.shape)


def backward(grad_out: Tensor, qkv: Tensor, table: Tensor, logit_scale: Tensor, seed: None, out: Tensor, lse: Tensor,
             grid: Grid, dropout: float, budget: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`forward` with respect to ``qkv``, ``table`` and ``logit_scale``.

    Takes at most four copies of ``qkv`` in float16, beside the budget, which is for gradients of biases and sums in
    float32.
    """
    if not len(qkv):
        return torch.empty_like(qkv), torch.zeros_like(table), torch.zeros_like(logit_scale)
    num_heads = logit_scale.numel()
    with without_autocast(qkv.device):
        order = row_order(len(qkv), grid, qkv.device)
        prepared = _prepare(qkv, logit_scale, order)
        x, of_values = prepared.x, prepared.powers[0, 2]
        shape = -1, *x.shape[2:]  # (T, nH, d)
        power = _gradient_power(grad_out.reshape(shape), max(part.tokens for part in order.parts))
        grad_rows, out_rows = _gather([grad_out.reshape(shape), out.reshape(shape)], [power, of_values], order)
        lse_rows = lse.view(-1, num_heads)
        if order.padded:  # no probability
            lse_rows = F.pad(lse_rows, (0, 0, 0, 1), value=math.inf)
        lse_rows = lse_rows.index_select(0, order.rows)
        grad_table: Tensor | None = None
        if [part.size for part in order.parts] != [tuple(axis.window for axis in grid)]:
            grad_table = torch.zeros(table.shape, dtype=SINGLE, device=table.device)
        grads = []
        for part, biases in _biases(table, order):
            grad_bias: Tensor | None = None
            for at, bias in _calls(part, biases, order, budget, differentiated=True):
                sums = _cells(lse_rows[at], part).mT.contiguous()  # (n, nH, N)
                if part.tokens % ROWS:
                    sums = F.pad(sums, (0, -part.tokens % ROWS), value=math.inf)
                grad, tiles = fused_backward(_cells(grad_rows[at], part), _cells(x[at], part), bias,
                                            _cells(out_rows[at], part), sums)
                grads.append(grad.flatten(0, 1))
                total = tiles.sum(0, dtype=SINGLE)
                grad_bias = total if grad_bias is None else grad_bias.add_(total)
            assert grad_bias is not None  # no part is without cells
            if grad_table is None:
                grad_table = fold(grad_bias, part.size)
            else:
                crop(grad_table, part.size).add_(fold(grad_bias, part.size))
        assert grad_table is not None
        del grad_rows, out_rows
        grad_x = grads[0] if len(grads) == 1 else torch.cat(grads)
        del grads
        of_logits = power * of_values  # what their gradients were divided by
        grad_rows, along = _gradient_rows(grad_x, prepared, order, power, of_logits, qkv.dtype, budget)
        grad_qkv = grad_rows.flatten(1).index_select(0, order.places).view(qkv.shape)
        along = _less_of_a_shift(along, grad_table, table, lse)
        grad_table.mul_(of_logits.view(-1, *[1] * (table.ndim - 1)))
        grad_scale = (along * of_logits).view_as(logit_scale).masked_fill_(logit_scale > MAX_LOGIT_SCALE, 0)
    return grad_qkv, grad_table.to(table.dtype), grad_scale.to(logit_scale.dtype)


def refuses(problem: Problem) -> str | None:
    """Why this kernel does not take a problem, or None."""
    qkv, heads = problem.qkv, problem.logit_scale.numel()
    dim = qkv.shape[-1] // 3 // heads
    if not HAS_OPERATORS:
        return f'torch {torch.__version__} has no memory-efficient attention with a bias and without split keys'
    if device_type(qkv.device) != 'cuda':
        return f'it is for CUDA devices, not for {qkv.device.type}'
    if qkv.dtype not in (HALF, torch.bfloat16):
        return f'it is for float16 and bfloat16, not for {str(qkv.dtype)[6:]}'
    if problem.dropout:
        return 'it has no dropout of attention probabilities'
    if dim % 8:
        return f'it takes heads of a multiple of 8 channels, not of {dim}'
    return None


HAS_OPERATORS = (torch.version.hip is None and has_argument('_scaled_dot_product_efficient_attention', 'attn_bias')
                 and has_argument('_efficient_attention_backward', 'shared_storage_dqdkdv'))


class Prepared(NamedTuple):
    """Queries, keys and values in the form that the kernel takes.

    Args:
        x: float16, (R, 3, nH, d): unit queries, keys of the length of the scale, values divided by their power.
        lengths: Divisors of queries and keys after their powers, (R, 2, nH); infinite for a row of zeros.
        scale: Factor on cosines, (nH,).
        powers: Powers of two by which tokens were divided first, (T, 3, nH); for values, one per head.
    """

    x: Tensor
    lengths: Tensor
    scale: Tensor
    powers: Tensor


def _cells(x: Tensor, part: Part) -> Tensor:
    """Rows of some cells, (n N, ...), as (n, N, ...)."""
    return x.unflatten(0, (-1, part.tokens))


def _powers(largest: Tensor) -> Tensor:
    """The powers of two at or below float32 numbers, by their bits."""
    return (largest.view(torch.int32) & EXPONENT).clamp_(SMALLEST, LARGEST).view(SINGLE)


def _prepare(qkv: Tensor, logit_scale: Tensor, order: RowOrder) -> Prepared:
    num_heads = logit_scale.numel()
    tokens = qkv.reshape(-1, 3, num_heads, qkv.shape[-1] // 3 // num_heads)  # (T, 3, nH, d)
    powers = _powers(torch.linalg.vector_norm(tokens, math.inf, -1, dtype=SINGLE))
    powers[:, 2] = powers[:, 2].amax(0)
    x, = _gather([tokens], [powers], order)
    # a row of zeros is divided by infinity, and so is its gradient
    lengths = torch.threshold(torch.linalg.vector_norm(x[:, :2], dim=-1, dtype=SINGLE), 0., math.inf)
    scale = scale_of(logit_scale, SINGLE).flatten()
    lengths[:, 1].div_(scale)
    x[:, :2].div_(lengths[..., None])
    return Prepared(x, lengths, scale, powers)


def _gather(tensors: list[Tensor], powers: list[Tensor], order: RowOrder) -> Tensor:
    """Divides tensors, each (T, ..., d), by powers that broadcast to (T, ...), and takes their rows, in float16:
    (tensors, R, ..., d). Padding rows are zeros."""
    tokens = len(order.places)
    divided = torch.empty(len(tensors), tokens + order.padded, *tensors[0].shape[1:], dtype=HALF,
                          device=order.rows.device)
    for target, x, power in zip(divided, tensors, powers):
        torch.div(x, power[..., None], out=target[:tokens])
    if order.padded:
        divided[:, tokens:].zero_()
    return divided.flatten(2).index_select(1, order.rows).view(len(tensors), -1, *divided.shape[2:])


def _biases(table: Tensor, order: RowOrder) -> Iterator[tuple[Part, Tensor]]:
    """The bias of cells of each size: float16, (nH, N, N), or (kinds, nH, N, N) with masks. Rows are aligned, with more
    than N columns where needed."""
    table = table.to(HALF)
    for part in order.parts:
        bias = expand(crop(table, part.size))
        if order.masks is not None:
            bias = bias + order.masks
        if part.tokens % ALIGNED:
            bias = F.pad(bias, (0, -part.tokens % ALIGNED))
        yield part, bias


def _calls(part: Part, biases: Tensor, order: RowOrder, budget: int, *,
           differentiated: bool) -> Iterator[tuple[slice, Tensor]]:
    """Cuts cells of one size into calls: their rows, and their bias (n, nH, N, N). Half of the budget is for tensors as
    large as biases."""
    kinds = order.kinds
    masked = kinds is not None
    tile = biases.element_size() * biases.shape[-3:].numel()
    limit = MOST_CELLS
    if masked or differentiated:
        limit = max(1, min(limit, budget // 2 // (tile * (masked + differentiated))))
    for first in range(0, part.cells, limit):
        last = min(first + limit, part.cells)
        bias = biases.expand(last - first, -1, -1, -1) if kinds is None else biases.index_select(0, kinds[first:last])
        yield (slice(part.first + first * part.tokens, part.first + last * part.tokens), bias[..., :part.tokens])


def _gradient_power(grad: Tensor, tokens: int) -> Tensor:
    """Powers of two, (nH,), that divide the gradient of the result, (T, nH, d), so that nothing overflows.

    With values below 2 and gradients below 2 / m, gradients of logits are at most 2 d / m, those of queries at most
    4 d / m times the scale, and those of keys at most 2 d N / m.
    """
    power = _powers(torch.linalg.vector_norm(grad, math.inf, (0, 2), dtype=SINGLE))
    most = 2 * grad.shape[-1] * max(tokens, 200)
    m = 2**max(0, math.ceil(math.log2(most / torch.finfo(HALF).max)))
    return power if m == 1 else power * m


def _gradient_rows(grad: Tensor, prepared: Prepared, order: RowOrder, power: Tensor, of_logits: Tensor,
                   dtype: torch.dtype, budget: int) -> tuple[Tensor, Tensor]:
    """Gradients of queries, keys and values from ``grad``, that of ``prepared.x``; half of the budget is for float32.

    The gradient of the result was divided by ``power``, those of logits by ``of_logits``, both (nH,).

    Returns:
        (gradients in the order of rows (R, 3, nH, d), sum of the parts of queries' gradients along queries (nH,)).
    """
    x, lengths, scale, powers = prepared
    tokens = order.rows.clamp(max=len(powers) - 1) if order.padded else order.rows
    factor = of_logits / powers[:, :2].index_select(0, tokens).mul_(lengths)  # (R, 2, nH)
    square = scale.square()
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    total: Tensor | None = None
    step = max(1, budget // 2 // (2 * 4 * x[0, :2].numel()))
    for start in range(0, len(x), step):
        at = slice(start, start + step)
        units = x[at, :2]
        g = grad[at, :2].to(SINGLE)
        along = (g * units).sum(-1)
        part = along[:, 0].sum(0)
        total = part if total is None else total.add_(part)
        along[:, 1].div_(square)  # keys are as long as the scale
        g.addcmul_(units, along[..., None], value=-1)
        torch.mul(g, factor[at, ..., None], out=out[at, :2])
        torch.mul(grad[at, 2], power[:, None], out=out[at, 2])
    assert total is not None  # there are rows
    return out, total


def _less_of_a_shift(along: Tensor, grad_table: Tensor, table: Tensor, lse: Tensor) -> Tensor:
    """Gradients of the log of scales, (nH,), with less of the error that gradients of logits share within a row.

    The exact gradients of a row of logits sum to zero. Here they sum to the error of the row's part along its
    probabilities. Its share in ``along`` is that sum times the mean of scaled cosines under the probabilities. The
    log-sum-exp (B, *map, nH) less the largest bias is near that mean, and below it where a row attends to one key.
    """
    mean = lse.view(-1, len(along)).mean(0).sub_(table.flatten(1).amax(1))
    return along.addcmul_(grad_table.flatten(1).sum(1), mean, value=-1)


BACKEND = kernel_backend('torch', forward, backward, refuses)
