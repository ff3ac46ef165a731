"""The formula of window attention, group by group, with whole attention maps; derivatives of any order and mode."""
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..grid import cut, groups, paste
from ..operators import is_transformed
from ..position_bias import expand_cells
from ..precision import without_autocast
from .normalize import cosine_normalize, scale_of, unit_rows

if TYPE_CHECKING:
    from .backends import Problem


def eager_attention(problem: Problem) -> Tensor:
    """Attends with whole attention maps; the budget is not kept.

    Logits, softmax and the sum over values are computed in float32 (float64 for float64) whatever the dtype of the
    input, also under autocast.

    Returns:
        Shape (B, *map, C), dtype of the input.
    """
    qkv, grid = problem.qkv, problem.grid
    num_heads = problem.logit_scale.numel()
    dtype = torch.promote_types(qkv.dtype, torch.float32)
    with without_autocast(qkv.device):
        table = problem.table.to(dtype)
        scale = scale_of(problem.logit_scale, dtype).view(num_heads, 1, 1, 1)
        nothing_kept = not torch.is_grad_enabled() and not is_transformed()  # so copies may be written to
        rows = cut(qkv.unflatten(-1, (3 * num_heads, -1)), grid, pieces=1 if nothing_kept else 3)
        lengths = torch.cat([scale, torch.ones_like(scale)]) if nothing_kept else None
        outs = []
        rows.reverse()  # to be given up one by one
        for bias in expand_cells(table, [tuple(run.size for run in group) for group in groups(grid)]):
            if nothing_kept:
                x = rows.pop().to(dtype)
                unit_rows(x[:2 * num_heads], lengths)
                q, k, v = x.view(3, num_heads, *x.shape[1:]).unbind()
            else:
                q, k, v = cosine_normalize(rows.pop(), scale), cosine_normalize(rows.pop()), rows.pop().to(dtype)
            outs.append(_attend(q, k, v, bias, problem.dropout))
        return paste(outs, qkv.shape[0], grid).flatten(-2).to(qkv.dtype)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, dropout: float) -> Tensor:
    """The formula: q, k, v of (nH, cells, N, d) and (nH, N, N) to (nH, cells, N, d)."""
    shape, n = q.shape, q.shape[2]
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    logits = torch.bmm(q, k.mT).view(*shape[:3], n) + bias[:, None]
    p = F.dropout(logits.softmax(-1), dropout).view(-1, n, n)
    return torch.bmm(p, v).view(shape)
