"""The operator ``mmswinv2::window_attention``: one schema, fake, derivative and FLOP count for every kernel.

A kernel is a pair of functions, forward and backward, of plain tensors; :data:`KERNELS` names them. The operator is
opaque to ``torch.compile``, which uses its fake, and to FLOP counters, which use :mod:`mmswinv2.core.flops`.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from ..operators import define_operator
from . import cells, fused, triton_attention
from .derivatives import NO_FORWARD_MODE, NO_SECOND

if TYPE_CHECKING:
    from .backends import Problem


class Kernel(NamedTuple):
    """How attention is computed.

    Args:
        forward: As :func:`mmswinv2.core.attention.cells.forward`.
        backward: As :func:`mmswinv2.core.attention.cells.backward`.
    """

    forward: Callable[..., tuple[Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]


KERNELS = {
    'cells': Kernel(cells.forward, cells.backward),
    'torch': Kernel(fused.forward, fused.backward),
    'triton': Kernel(triton_attention.forward, triton_attention.backward),
}


def kernel_attention(name: str, problem: Problem) -> Tensor:
    """Attention by a kernel; under ``vmap`` maps are processed one after another.

    Args:
        name: A key of ``KERNELS``.
        problem: The problem.

    Returns:
        Shape (B, *map, C).

    Raises:
        RuntimeError: if a second or a forward-mode derivative is wanted.
    """
    qkv, grid = problem.qkv, problem.grid
    seed = None
    if problem.dropout:  # on the device, whose state activation checkpointing restores
        seed = torch.randint(2**62, (1,), device=qkv.device)
    return window_attention_operator(
        qkv.contiguous(), problem.table, problem.logit_scale, seed, [axis.window for axis in grid],
        [axis.shift for axis in grid], problem.dropout, problem.budget, name)[0]


def _forward(*args: Any) -> tuple[Tensor, Tensor]:
    return KERNELS[args[-1]].forward(*args[:-1])


def _fake(qkv: Tensor, table: Tensor, logit_scale: Tensor, *options: object) -> tuple[Tensor, Tensor]:
    return cells.empty_results(qkv, logit_scale)


def _setup_context(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
    qkv, table, logit_scale, seed, *ctx.options = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(qkv, table, logit_scale, seed, *output)


def _differentiate(ctx: Any, grad_out: Tensor, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    return *window_attention_backward_operator(grad_out, *ctx.saved_tensors, *ctx.options), *[None] * 6


def _backward(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    return KERNELS[args[-1]].backward(*args[:-1])


def _fake_backward(grad_out: Tensor, qkv: Tensor, table: Tensor, logit_scale: Tensor,
                   *options: object) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(qkv), torch.empty_like(table), torch.empty_like(logit_scale)


def _refuse(ctx: Any, *grads: Tensor) -> NoReturn:
    raise RuntimeError(f'attention must be differentiated once only, got a double backward: {NO_SECOND}; '
                       "attn_backend='eager' has derivatives of any order")


def _refuse_forward_mode(ctx: Any, *tangents: Tensor) -> NoReturn:
    raise RuntimeError(f'attention must be differentiated in reverse mode: {NO_FORWARD_MODE}; '
                       "attn_backend='eager' has derivatives of any order")


_TENSORS = 'Tensor qkv, Tensor table, Tensor logit_scale, Tensor? seed'
_OPTIONS = 'int[] window, int[] shift, float dropout, int budget, str kernel'
window_attention_operator = define_operator(
    'window_attention', f'({_TENSORS}, {_OPTIONS}) -> (Tensor, Tensor)', _forward, fake=_fake, backward=_differentiate,
    jvp=_refuse_forward_mode, setup_context=_setup_context)
window_attention_backward_operator = define_operator(
    'window_attention_backward',
    f'(Tensor grad_out, {_TENSORS}, Tensor out, Tensor lse, {_OPTIONS}) -> (Tensor, Tensor, Tensor)', _backward,
    fake=_fake_backward, backward=_refuse, jvp=_refuse_forward_mode, setup_context=lambda ctx, inputs, output: None)
