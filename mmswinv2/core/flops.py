"""Multiply-accumulates of attention: its operator is opaque to counters of operations, which would take it for nothing.

``torch.utils.flop_counter.FlopCounterMode`` (two operations per multiply-accumulate) knows it through this module,
MMEngine's ``get_model_complexity_info`` through :mod:`mmswinv2.engine.flops`.
"""
from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch.utils import flop_counter

from .cell_attention import axis_cells

BACKWARD = 5 / 2  # matrix products backward (logits again, gradients of p, v, q, k) over those forward


def attention_macs(qkv: Sequence[int], window: Sequence[int], shift: Sequence[int]) -> int:
    """Multiply-accumulates of logits and of the sum over values, for the cells of a map.

    The published figures count whole windows; where windows are shifted, cells at the borders are smaller.

    Args:
        qkv: The shape of queries, keys and values: (B, H, W, 3C).
        window: (h, w) in tokens.
        shift: (h, w) in tokens.
    """
    b, height, width, c3 = qkv
    pairs = prod(sum(cells.count * cells.size**2 for cells in axis_cells(*axis))
                 for axis in zip((height, width), window, shift))
    return 2 * b * pairs * (c3 // 3)


def _forward(qkv, table, logit_scale, seed, window, shift, *args, **kwargs) -> int:
    return 2 * attention_macs(qkv, window, shift)


def _backward(grad_out, out, qkv, table, logit_scale, seed, window, shift, *args, **kwargs) -> int:
    return int(2 * BACKWARD * attention_macs(qkv, window, shift))


if hasattr(flop_counter, 'register_flop_formula'):  # torch 2.2
    flop_counter.register_flop_formula(torch.ops.mmswinv2.cell_attention)(_forward)
    flop_counter.register_flop_formula(torch.ops.mmswinv2.cell_attention_backward)(_backward)
