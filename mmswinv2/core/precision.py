"""Computes parts of a model in another dtype than the code around them: without autocast, or with it in one part."""
from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Switches autocast off for a device; the meta device has no autocast."""
    return nullcontext() if autocast_dtype(device.type) is None else torch.autocast(device.type, enabled=False)


def product_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype of a matrix product of ``x``: autocast's where it is on."""
    return autocast_dtype(x.device.type) or x.dtype


def autocast_dtype(kind: str) -> torch.dtype | None:
    """The dtype of autocast on devices of a type, or None where it is off."""
    if kind == 'meta':  # it has none
        return None
    if hasattr(torch, 'get_autocast_dtype'):  # torch 2.4
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    if kind == 'cpu':
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


def check_autocast_dtype(name: str | None) -> torch.dtype | None:
    """The dtype of a name, for :func:`autocast_to`.

    Raises:
        ValueError: if it is neither None, nor ``'bfloat16'`` or ``'float16'``.
    """
    if name not in (None, 'bfloat16', 'float16'):
        raise ValueError(f'autocast_dtype must be None, bfloat16 or float16, got {name!r}')
    return None if name is None else getattr(torch, name)


def autocast_to(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager:
    """Switches autocast to a dtype on for a device; None, or the meta device, leaves it as it is.

    Each weight is cast once per pass, so a cache would only keep all 16-bit copies until the pass ends.
    """
    if dtype is None or device.type == 'meta':
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype, cache_enabled=False)
