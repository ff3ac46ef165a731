"""What torch names differently from version to version, or not at all: transforms, autocast, constants per device.

No other file of ``mmswinv2.core`` uses a private name of torch. These have no public one:

* ``torch._C._are_functorch_transforms_active`` (torch 2.1 to 2.13): whether code runs under torch.func. Without it,
  code takes itself to run outside, and torch refuses the operators of attention there with an error of its own.
* ``torch.autograd.forward_ad._current_level`` (2.1 to 2.13): whether forward mode is on. Without it, likewise.
* ``torch.compiler._is_exporting_flag`` (2.7 to 2.13): whether a program is exported. ``torch.compiler.is_exporting()``
  tells the same, but the compiler of torch 2.11 takes that call for True. Without it, an older torch does not tell.
* ``_forward_hooks`` and its like of a module, ``torch.nn.modules.module._has_any_global_hook`` (2.1 to 2.13): whether
  somebody else sees what a layer gives. Without the latter, layers are taken to have hooks.
* ``torch._weights_only_unpickler._get_allowed_globals`` (asked in 2.1 to 2.5): what a file of weights may hold.
* ``torch._utils.is_compiling`` (2.1 and 2.2): what ``torch.compiler.is_compiling`` became.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache, wraps
from typing import Any, TypeVar

import torch
from torch import nn
from torch.autograd import forward_ad

T = TypeVar('T')
KEPT = 64  # results of a cached function

is_compiling = torch.compiler.is_compiling if hasattr(torch.compiler, 'is_compiling') else torch._utils.is_compiling
is_under_torch_func = getattr(torch._C, '_are_functorch_transforms_active', lambda: False)


def is_exporting() -> bool:
    """Whether torch exports a program, also to ONNX."""
    return getattr(torch.compiler, '_is_exporting_flag', False)


def is_in_forward_mode() -> bool:
    """Whether a level of forward-mode differentiation is open (``jvp``, ``jacfwd``, dual numbers)."""
    return getattr(forward_ad, '_current_level', -1) >= 0


def is_transformed() -> bool:
    """Whether code is compiled, traced, under torch.func or in forward mode. Then nothing may depend on values."""
    return is_compiling() or torch.jit.is_tracing() or is_under_torch_func() or is_in_forward_mode()


def allowed_globals() -> dict[str, Any]:
    """What torch allows in a file of weights, by name."""
    from torch._weights_only_unpickler import _get_allowed_globals
    return _get_allowed_globals()


_has_any_global_hook = getattr(nn.modules.module, '_has_any_global_hook', lambda: True)


def is_plain_linear(layer: nn.Module) -> bool:
    """Whether a layer is torch's own linear layer that nobody has replaced or watches.

    Compilers do not ask: they fuse what follows a product anyway.
    """
    return not (is_transformed() or type(layer) is not nn.Linear or 'forward' in vars(layer) or _has_any_global_hook()
                or layer._forward_pre_hooks or layer._forward_hooks or layer._backward_pre_hooks
                or layer._backward_hooks)


def autocast_dtype(kind: str) -> torch.dtype | None:
    """The dtype of autocast on devices of a type, or None where it is off."""
    if kind == 'meta':  # it has none
        return None
    if hasattr(torch, 'get_autocast_dtype'):  # torch 2.4
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    if kind == 'cpu':
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


def product_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype of a matrix product of ``x``: autocast's where it is on."""
    return autocast_dtype(x.device.type) or x.dtype


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Switches autocast off for a device; the meta device has no autocast."""
    return nullcontext() if autocast_dtype(device.type) is None else torch.autocast(device.type, enabled=False)


def autocast_to(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager:
    """Switches autocast to a dtype on for a device; None, or the meta device, leaves it as it is.

    Each weight is cast once per pass, so a cache would only keep all 16-bit copies until the pass ends.
    """
    if dtype is None or device.type == 'meta':
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype, cache_enabled=False)


def check_autocast_dtype(name: str | None) -> torch.dtype | None:
    """The dtype of a name, for :func:`autocast_to`.

    Raises:
        ValueError: if it is neither None, nor ``'bfloat16'`` or ``'float16'``.
    """
    if name not in (None, 'bfloat16', 'float16'):
        raise ValueError(f'autocast_dtype must be None, bfloat16 or float16, got {name!r}')
    return None if name is None else getattr(torch, name)


_meta = 'meta'


def device_type(device: torch.device) -> str:
    """The type of a device, by which backends are chosen. Within :func:`meta_stands_for`, meta has another's type."""
    return _meta if device.type == 'meta' else device.type


@contextmanager
def meta_stands_for(kind: str) -> Iterator[None]:
    """Lets meta tensors stand for tensors on an absent device of type ``kind``, such as ``'cuda'``.

    So its work can be counted (``benchmarks/gpu_cost.py``).
    """
    global _meta
    before, _meta = _meta, kind
    try:
        yield
    finally:
        _meta = before


def cached_per_device(function: Callable[..., T]) -> Callable[..., T]:
    """Caches the last results of a function of sizes and, as its last argument, a device. Results are read-only.

    The cache is not used where tensors may not be real (compilation, torch.func, fake tensors), nor while a CUDA graph
    is recorded, which fills its memory only at replay.
    """
    @lru_cache(KEPT)
    def keep(*args: Any) -> T:
        with torch.inference_mode(False), torch.no_grad():
            return function(*args)

    @wraps(function)
    def call(*args: Any) -> T:
        return keep(*args) if may_keep(args[-1]) else function(*args)
    return call


def may_keep(device: torch.device) -> bool:
    """Whether what is computed now on a device is real: no trace, no fake tensors, no CUDA graph that is captured."""
    if is_transformed() or type(torch.empty(0)) is not torch.Tensor:
        return False
    return device.type != 'cuda' or not torch.cuda.is_current_stream_capturing()
