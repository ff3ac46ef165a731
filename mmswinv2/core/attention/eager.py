"""The formula of window attention, group by group, with whole attention maps; derivatives of any order and mode."""
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..grid import cells, copy_cells, groups, join, split, uncut
from ..position_bias import crop, expand
from ..precision import without_autocast
from .normalize import cosine_normalize, scale_of

if TYPE_CHECKING:
    from .backends import Problem


def eager_attention(problem: Problem) -> Tensor:
    """Attends with whole attention maps; the budget is not kept.

    Logits, softmax and the sum over values are computed in float32 (float64 for float64) whatever the dtype of the
    input, also under autocast. Groups whose cells have one size are computed together: four on a shifted map whose
    windows are moved by half and divide it.

    Returns:
        Shape (B, *map, C), dtype of the input.
    """
    qkv, grid = problem.qkv, problem.grid
    num_heads = problem.logit_scale.numel()
    dtype = torch.promote_types(qkv.dtype, torch.float32)
    alike: dict[tuple[int, ...], list[int]] = {}  # groups by the size of their cells
    which = list(groups(grid))
    for i, group in enumerate(which):
        alike.setdefault(tuple(run.size for run in group), []).append(i)
    with without_autocast(qkv.device):
        table = problem.table.to(dtype)
        scale = scale_of(problem.logit_scale, dtype).view(num_heads, 1, 1, 1)
        parts = split(qkv.unflatten(-1, (3 * num_heads, -1)), grid)
        # not written into an empty map, which torch.func.linearize would take for a constant
        outs = [qkv] * len(which)
        for size, members in alike.items():
            rows = [copy_cells(cells(parts[i], which[i])).unflatten(0, (3, num_heads)) for i in members]
            out = _attend(rows[0] if len(rows) == 1 else torch.cat(rows, 2), expand(crop(table, size)), scale,
                          problem.dropout)
            for i, part in zip(members, out.split([x.shape[2] for x in rows], 1)):
                outs[i] = uncut(part, qkv.shape[0], which[i])
        return join(outs, grid).to(qkv.dtype)


def _attend(qkv: Tensor, bias: Tensor, scale: Tensor, dropout: float) -> Tensor:
    """The formula: (3, nH, cells, N, d), (nH, N, N) and (nH, 1, 1, 1) to (nH, cells, N, d)."""
    q, k, v = qkv.unbind()
    logits = cosine_normalize(q, scale) @ cosine_normalize(k).mT + bias[:, None]  # (nH, cells, N, N)
    return F.dropout(logits.softmax(-1), dropout) @ v.to(bias.dtype)
