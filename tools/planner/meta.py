"""What the meta device lacks of a GPU: autocast, the inside of the operators of attention, and a derivative.

``benchmarks/gpu_cost.py`` uses it too.
"""
from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from unittest import mock

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmswinv2.core import layers
from mmswinv2.core.attention import operator

HALF, SINGLE = torch.bfloat16, torch.float32


# the functions behind our operators, which take their arguments
KERNELS = {operator.window_attention_operator: operator.forward,
           operator.window_attention_backward_operator: operator.backward}


def _efficient_attention_backward(grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *args,
                                  shared_storage_dqdkdv: bool, **kwargs) -> tuple[Tensor, ...]:
    """What that operator returns, with the gradient of the bias; torch's own knows no argument ``out`` (2.13)."""
    n, tokens, heads, dim = q.shape
    grads = q.new_empty(n, tokens, 3, heads, dim) if shared_storage_dqdkdv else None
    columns = -(-bias.shape[-1] // 16) * 16
    grad_bias = bias.new_empty(*bias.shape[:-1], columns)[..., :bias.shape[-1]]
    return *(map(torch.empty_like, (q, k, v)) if grads is None else grads.unbind(2)), grad_bias


META = {torch.ops.aten._efficient_attention_backward.default: _efficient_attention_backward}  # in place of torch's


class Autocast(TorchFunctionMode):
    """CUDA's autocast to bfloat16: products in bfloat16, lengths of vectors and softmax in float32.

    Args:
        cached: Whether each weight is cast once, and its copy kept, as by default.
    """

    LOWER = {F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm, torch.baddbmm, F.conv2d,
             F.conv3d}
    SINGLE = {F.softmax, torch.softmax, Tensor.softmax}
    on = True

    def __init__(self, *, cached: bool = True) -> None:
        super().__init__()
        self.cast: dict[int, Tensor] | None = {} if cached else None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Casts the arguments."""
        kwargs = kwargs or {}
        if Autocast.on and func is F.normalize:
            length = torch.linalg.vector_norm(args[0], dim=-1, keepdim=True, dtype=SINGLE)
            return args[0] / length.clamp_min(1e-12)
        if Autocast.on and func in self.LOWER:
            args = [self._lower(a) if isinstance(a, Tensor) else a for a in args]
        if Autocast.on and func in self.SINGLE:
            args = [a.float() if isinstance(a, Tensor) else a for a in args]
        return func(*args, **kwargs)

    def _lower(self, x: Tensor) -> Tensor:
        if self.cast is None or not isinstance(x, nn.Parameter):
            return x.to(HALF)
        if id(x) not in self.cast:
            self.cast[id(x)] = x.to(HALF)
        return self.cast[id(x)]

    @classmethod
    def dtype(cls, x: Tensor) -> torch.dtype:
        """In place of :func:`mmswinv2.core.torch_compat.product_dtype`."""
        return HALF if cls.on else x.dtype

    @classmethod
    @contextmanager
    def off(cls, device: torch.device) -> Iterator[None]:
        """In place of :func:`mmswinv2.core.torch_compat.without_autocast`."""
        before, cls.on = cls.on, False
        try:
            yield
        finally:
            cls.on = before


@contextmanager
def autocast(*, cached: bool = True) -> Iterator[Autocast]:
    """Autocast on the meta device, which the core switches off as it does that of CUDA.

    What a checkpoint computes again in the backward pass is under autocast too.
    """
    modules = [module for name, module in sys.modules.items() if name.startswith('mmswinv2.core.')]
    checkpoint = partial(torch.utils.checkpoint.checkpoint, context_fn=lambda: (nullcontext(), Autocast(cached=cached)))
    with ExitStack() as stack:
        for module in modules:
            for name, ours in (('without_autocast', Autocast.off), ('product_dtype', Autocast.dtype)):
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, ours))
        for module in (layers, torch.utils.checkpoint):
            stack.enter_context(mock.patch.object(module, 'checkpoint', checkpoint))
        yield stack.enter_context(Autocast(cached=cached))
