"""Custom operators of torch: opaque to ``torch.compile``, with their own derivative; torch 2.1 and later."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.forward_ad import _set_fwd_grad_enabled
from torch.autograd.function import _SingleLevelFunction

is_compiling = torch.compiler.is_compiling if hasattr(torch.compiler, 'is_compiling') else torch._utils.is_compiling


def is_exporting() -> bool:
    """Whether torch exports a program, also to ONNX."""
    exporting = getattr(torch.compiler, 'is_exporting', None)  # older torch has none
    return exporting is not None and exporting()


def is_transformed() -> bool:
    """Whether code is compiled, traced, under torch.func or in forward mode. Then nothing may depend on values."""
    return (is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()
            or forward_ad._current_level >= 0)


_LIBRARY = torch.library.Library('mmswinv2', 'FRAGMENT')


def define_operator(name: str, schema: str, function: Callable, *, fake: Callable, backward: Callable, jvp: Callable,
                    setup_context: Callable) -> Callable:
    """Defines an operator ``mmswinv2::name`` from its schema.

    ``torch.library.custom_op`` is not used: it imports the compiler at the first call, which takes a second and
    100 MiB. The derivative is an ``autograd.Function`` in the autograd kernel. ``torch.library.register_autograd``
    makes one too, but it drops forward-mode tangents without an error and does not work under ``torch.func``.

    Args:
        name: Its name.
        schema: Arguments and results, ``(Tensor x, ...) -> ...``.
        function: The implementation, on any device.
        fake: The same arguments to empty results of the right shapes.
        backward: ``(ctx, *grads)`` to a gradient, or None, per argument.
        jvp: ``(ctx, *tangents)`` to the tangent of each result.
        setup_context: ``(ctx, inputs, output)``: keeps what ``backward`` and ``jvp`` need.

    Returns:
        The operator.
    """
    _LIBRARY.define(f'{name}{schema}')
    _LIBRARY.impl(name, function, 'CompositeExplicitAutograd')
    _LIBRARY.impl(name, fake, 'Meta')
    operator = getattr(torch.ops.mmswinv2, name).default

    def forward(*inputs: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*inputs)

    def forward_of_a_level(*inputs: Any) -> Any:
        # a Function switches both modes off for its forward pass; outer levels of torch.func need them
        with torch.enable_grad(), _set_fwd_grad_enabled(True):
            return forward(*inputs)

    methods = dict(setup_context=setup_context, backward=backward, jvp=jvp)
    plain, level = (_function(name, forward=f, **methods) for f in (forward, forward_of_a_level))

    def differentiate(*inputs: Any) -> Any:
        if not torch._C._are_functorch_transforms_active():
            return plain.apply(*inputs)
        with enable_single_level_autograd_function():  # torch.func calls this kernel once per level
            return level.apply(*inputs)

    _LIBRARY.impl(name, differentiate, 'Autograd')
    return operator


def _function(name: str, **methods: Callable) -> Any:
    """A class of ``autograd.Function`` whose ``apply`` is of one level of torch.func."""
    return type(name, (_SingleLevelFunction,), {k: staticmethod(f) for k, f in methods.items()})
