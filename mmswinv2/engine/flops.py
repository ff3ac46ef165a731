"""Attention for MMEngine's count of operations (``mim run mmdet get_flops CONFIG``), which has no handle for it."""
from __future__ import annotations

from math import prod

from mmengine.analysis import complexity_analysis
from mmengine.analysis.jit_handles import generic_activation_jit, get_shape

from ..core.flops import attention_macs


def _ints(value) -> list[int]:
    """A list of integers in a traced graph."""
    node = value.node()
    return value.toIValue() if node.kind() == 'prim::Constant' else [v.toIValue() for v in node.inputs()]


def count_window_attention(inputs: list, outputs: list) -> int:
    """Multiply-accumulates of window attention; MMEngine counts one operation for each."""
    return attention_macs(get_shape(inputs[0]), _ints(inputs[4]), _ints(inputs[5]))


def count_attention(inputs: list, outputs: list) -> int:
    """Multiply-accumulates of torch's ``scaled_dot_product_attention``: of logits and of the sum over values."""
    *_, n, d = get_shape(inputs[0])
    *batch, m, e = get_shape(inputs[2])
    return prod(batch) * n * m * (d + e)


def register_flop_handles() -> None:
    """Adds both to what MMEngine counts, operations and activations (outputs); a handle that it has stays.

    Its tables have no public names.
    """
    flops = getattr(complexity_analysis, '_DEFAULT_SUPPORTED_FLOP_OPS', {})
    activations = getattr(complexity_analysis, '_DEFAULT_SUPPORTED_ACT_OPS', {})
    for name, count in {'mmswinv2::window_attention': count_window_attention,
                        'aten::scaled_dot_product_attention': count_attention}.items():
        flops.setdefault(name, count)
        activations.setdefault(name, generic_activation_jit())
