"""Has MMEngine count the FLOPs of attention (``mim run mmdet get_flops CONFIG``), for which it has no handle."""
from __future__ import annotations

import warnings
from math import prod

from mmengine.analysis import complexity_analysis
from mmengine.analysis.jit_handles import generic_activation_jit, get_shape

from ..core.flops import attention_macs

TABLES = ('_DEFAULT_SUPPORTED_FLOP_OPS', '_DEFAULT_SUPPORTED_ACT_OPS')  # MMEngine has no public names for them


def _ints(value) -> list[int]:
    """A list of integers in a traced graph."""
    node = value.node()
    return value.toIValue() if node.kind() == 'prim::Constant' else [v.toIValue() for v in node.inputs()]


def _window_attention(inputs: list, outputs: list) -> int:
    """Multiply-accumulates of window attention; MMEngine counts one operation for each."""
    return attention_macs(get_shape(inputs[0]), _ints(inputs[4]), _ints(inputs[5]))


def _scaled_dot_product_attention(inputs: list, outputs: list) -> int:
    """Multiply-accumulates of torch's ``scaled_dot_product_attention``: of logits and of the sum over values."""
    *_, n, d = get_shape(inputs[0])
    *batch, m, e = get_shape(inputs[2])
    return prod(batch) * n * m * (d + e)


def count_attention() -> None:
    """Has MMEngine count FLOPs and activations (outputs) of window attention and of torch's fused attention.

    Without a handle they count as zero (mmengine 0.10.7, ``analysis/complexity_analysis.py``, from PR
    open-mmlab/mmengine#779; no issue is known). Handles that MMEngine already has stay. If MMEngine keeps its handles
    elsewhere, there is a warning.
    """
    flops, activations = (getattr(complexity_analysis, name, None) for name in TABLES)
    if flops is None or activations is None:
        warnings.warn(f'mmswinv2.engine.flops: attention is not counted by get_flops: this MMEngine has no '
                      f'{" and ".join(TABLES)} in mmengine.analysis.complexity_analysis', stacklevel=2)
        return
    for name, count in {'mmswinv2::window_attention': _window_attention,
                        'aten::scaled_dot_product_attention': _scaled_dot_product_attention}.items():
        flops.setdefault(name, count)
        activations.setdefault(name, generic_activation_jit())
