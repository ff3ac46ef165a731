"""Operators of torch: opaque to ``torch.compile``, with a derivative of their own, in torch 2.1 as in later ones."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

is_compiling = torch.compiler.is_compiling if hasattr(torch.compiler, 'is_compiling') else torch._utils.is_compiling
_LIBRARY = torch.library.Library('mmswinv2', 'FRAGMENT')


def define_operator(name: str, schema: str, function: Callable, *, fake: Callable, backward: Callable,
                    setup_context: Callable | None = None) -> Callable:
    """Defines an operator ``mmswinv2::name``, by its schema: ``torch.library.custom_op`` imports the compiler at the
    first call, which takes a second and 100 MiB.

    Args:
        name: Its name.
        schema: Arguments and results, ``(Tensor x, ...) -> ...``.
        function: What it does, on any device.
        fake: The same arguments to empty results of the right shapes.
        backward: ``(ctx, *grads)`` to a gradient, or None, per argument.
        setup_context: ``(ctx, inputs, output)``: keeps what ``backward`` needs.

    Returns:
        The operator.
    """
    _LIBRARY.define(f'{name}{schema}')
    _LIBRARY.impl(name, function, 'CompositeExplicitAutograd')
    _LIBRARY.impl(name, fake, 'Meta')
    operator = getattr(torch.ops.mmswinv2, name).default
    if hasattr(torch.library, 'register_autograd'):  # torch 2.4
        torch.library.register_autograd(f'mmswinv2::{name}', backward, setup_context=setup_context, lib=_LIBRARY)
    else:
        _LIBRARY.impl(name, _differentiable(operator, backward, setup_context), 'Autograd')
    return operator


def _differentiable(operator: Callable, backward: Callable, setup_context: Callable | None) -> Callable:
    """An operator with its derivative, as the kernel of the dispatch key of autograd."""

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            with torch._C._AutoDispatchBelowAutograd():
                output = operator(*inputs)
            if setup_context is not None:
                setup_context(ctx, inputs, output)
            return output

    Differentiable.backward = staticmethod(backward)

    def call(*inputs):
        if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
            return Differentiable.apply(*inputs)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*inputs)
    return call
