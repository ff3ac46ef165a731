"""Multiply-accumulates of attention: its operator is opaque to counters of operations, which would take it for nothing.

``torch.utils.flop_counter.FlopCounterMode`` (two operations per multiply-accumulate) knows it through this module,
MMEngine's ``get_model_complexity_info`` through :mod:`mmswinv2.engine.flops`.
"""
from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch.utils import flop_counter

from . import attention  # noqa: F401  (defines the operators)
from .grid import Axis

BACKWARD = 5 / 2  # matrix products backward (logits again, gradients of p, v, q, k) over those forward


def attention_macs(qkv: Sequence[int], window: Sequence[int], shift: Sequence[int]) -> int:
    """Multiply-accumulates of logits and of the sum over values, for the cells of a map.

    The published figures count whole windows; where windows are shifted, cells at the borders are smaller.

    Args:
        qkv: The shape of queries, keys and values: (B, *map, 3C).
        window: Tokens along each axis.
        shift: Tokens along each axis.
    """
    batch, *lengths, c3 = qkv
    pairs = prod(Axis(*axis).pairs for axis in zip(lengths, window, shift))
    return 2 * batch * pairs * (c3 // 3)


def _forward(qkv: Sequence[int], table: object, logit_scale: object, seed: object, window: Sequence[int],
             shift: Sequence[int], *args: object, **kwargs: object) -> int:
    return 2 * attention_macs(qkv, window, shift)


def _backward(grad_out: object, qkv: Sequence[int], table: object, logit_scale: object, seed: object, out: object,
              lse: object, window: Sequence[int], shift: Sequence[int], *args: object, **kwargs: object) -> int:
    return int(2 * BACKWARD * attention_macs(qkv, window, shift))


if hasattr(flop_counter, 'register_flop_formula'):  # torch 2.2
    flop_counter.register_flop_formula(torch.ops.mmswinv2.window_attention)(_forward)
    flop_counter.register_flop_formula(torch.ops.mmswinv2.window_attention_backward)(_backward)
