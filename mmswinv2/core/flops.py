"""Counts multiply-accumulates of attention. FLOP counters cannot see into its operator and would count zero FLOPs.

This module registers it with ``torch.utils.flop_counter.FlopCounterMode`` (two operations per multiply-accumulate).
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

    Published figures count whole windows. The border cells of shifted windows are smaller.

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
