"""Makes a kernel into a backend: the operator ``mmswinv2::window_attention``, opaque to ``torch.compile``.

A kernel is a pair of functions of plain tensors, forward and backward. All share one schema, one fake and one count of
FLOPs (:mod:`mmswinv2.core.flops`). The derivative is an ``autograd.Function`` around the two operators, which the
compiler follows. It is the first derivative in reverse mode; :func:`kernel_backend` adds the check of that.

``torch.library.custom_op`` is not used: it imports the compiler at the first call, which takes a second and 100 MiB.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from ..grid import Axis, Grid
from ..torch_compat import is_in_forward_mode, is_under_torch_func
from .problem import Backend, Problem


class Kernel(NamedTuple):
    """Functions as ``forward`` and ``backward`` of :mod:`mmswinv2.core.attention.cells`."""

    forward: Callable[..., tuple[Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]


KERNELS: dict[str, Kernel] = {}


def kernel_backend(name: str, forward: Callable[..., tuple[Tensor, Tensor]],
                   backward: Callable[..., tuple[Tensor, Tensor, Tensor]],
                   refuses: Callable[[Problem], str | None] = lambda problem: None) -> Backend:
    """Makes a :class:`Kernel` into a backend of its name; derivatives are checked for all, beside ``refuses``."""
    KERNELS[name] = Kernel(forward, backward)

    def run(problem: Problem) -> Tensor:
        qkv, grid = problem.qkv, problem.grid
        seed = None
        if problem.dropout:  # on the device, whose state activation checkpointing restores
            seed = torch.randint(2**62, (1,), device=qkv.device)
        return _Attention.apply(
            qkv.contiguous(), problem.table, problem.logit_scale, seed, [axis.window for axis in grid],
            [axis.shift for axis in grid], problem.dropout, problem.budget, name)
    return Backend(name, run, lambda problem: refuses(problem) or refuses_derivative())


def refuses_derivative() -> str | None:
    """Why operators of attention cannot run under the transforms that are active, or None."""
    if is_in_forward_mode():
        return 'it has no forward-mode derivative (jvp, jacfwd, dual numbers)'
    if is_under_torch_func():
        return 'it does not work under torch.func (grad, vmap, jacrev)'
    if torch.jit.is_tracing():
        return 'torch.jit.trace does not record its derivative'
    return None


def _grid(qkv: Tensor, window: Sequence[int], shift: Sequence[int]) -> Grid:
    return tuple(map(Axis, qkv.shape[1:-1], window, shift))


def forward(qkv: Tensor, table: Tensor, logit_scale: Tensor, seed: Tensor | None, window: list[int], shift: list[int],
            dropout: float, budget: int, kernel: str) -> tuple[Tensor, Tensor]:
    """The forward pass of a kernel, of the arguments of the operator."""
    return KERNELS[kernel].forward(qkv, table, logit_scale, seed, _grid(qkv, window, shift), dropout, budget)


def backward(grad_out: Tensor, qkv: Tensor, table: Tensor, logit_scale: Tensor, seed: Tensor | None, out: Tensor,
             lse: Tensor, window: list[int], shift: list[int], dropout: float, budget: int,
             kernel: str) -> tuple[Tensor, Tensor, Tensor]:
    """The backward pass of a kernel, of the arguments of the operator."""
    return KERNELS[kernel].backward(grad_out, qkv, table, logit_scale, seed, out, lse, _grid(qkv, window, shift),
                                    dropout, budget)


def empty_results(qkv: Tensor, logit_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Empty results of a kernel: (B, *map, C), and log-sum-exp (B, *map, nH) in float32 or float64."""
    *shape, c3 = qkv.shape
    dtype = torch.promote_types(qkv.dtype, torch.float32)
    return (torch.empty(*shape, c3 // 3, dtype=qkv.dtype, device=qkv.device),
            torch.empty(*shape, logit_scale.numel(), dtype=dtype, device=qkv.device))


def _fake(qkv: Tensor, table: Tensor, logit_scale: Tensor, *options: object) -> tuple[Tensor, Tensor]:
    return empty_results(qkv, logit_scale)


def _fake_backward(grad_out: Tensor, qkv: Tensor, table: Tensor, logit_scale: Tensor,
                   *options: object) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(qkv), torch.empty_like(table), torch.empty_like(logit_scale)


_LIBRARY = torch.library.Library('mmswinv2', 'FRAGMENT')


def _define(name: str, schema: str, function: Callable, fake: Callable) -> Callable:
    """Defines an operator ``mmswinv2::name`` that has no derivative."""
    _LIBRARY.define(f'{name}{schema}')
    _LIBRARY.impl(name, function, 'CompositeExplicitAutograd')
    _LIBRARY.impl(name, fake, 'Meta')
    return getattr(torch.ops.mmswinv2, name).default


_TENSORS = 'Tensor qkv, Tensor table, Tensor logit_scale, Tensor? seed'
_OPTIONS = 'int[] window, int[] shift, float dropout, int budget, str kernel'
window_attention_operator = _define(
    'window_attention', f'({_TENSORS}, {_OPTIONS}) -> (Tensor, Tensor)', forward, _fake)
window_attention_backward_operator = _define(
    'window_attention_backward',
    f'(Tensor grad_out, {_TENSORS}, Tensor out, Tensor lse, {_OPTIONS}) -> (Tensor, Tensor, Tensor)', backward,
    _fake_backward)


class _Attention(torch.autograd.Function):
    """The operator with its derivative."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, table: Tensor, logit_scale: Tensor, seed: Tensor | None,
                *options: Any) -> Tensor:
        out, lse = window_attention_operator(qkv, table, logit_scale, seed, *options)
        ctx.save_for_backward(qkv, table, logit_scale, seed, out, lse)
        ctx.options = options
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *_Gradients.apply(grad, *ctx.saved_tensors, *ctx.options), *[None] * 6


class _Gradients(torch.autograd.Function):
    """The operator of the derivative, which has none."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        return window_attention_backward_operator(*args)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        raise RuntimeError('attention must be differentiated once only, got a double backward: it has no second '
                           "derivative; attn_backend='eager' has derivatives of any order")
