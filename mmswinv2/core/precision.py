"""Computing in the dtype of the inputs, whatever autocast says."""
from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Switches autocast off for a device; the meta device has none, and no switch."""
    return nullcontext() if device.type == 'meta' else torch.autocast(device.type, enabled=False)


def product_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype of a matrix product of ``x``: that of autocast where it is on."""
    kind = x.device.type
    if hasattr(torch, 'get_autocast_dtype'):  # torch 2.4
        on, dtype = torch.is_autocast_enabled, torch.get_autocast_dtype
        return dtype(kind) if kind in ('cpu', 'cuda') and on(kind) else x.dtype
    if kind == 'cuda':
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else x.dtype
    return torch.get_autocast_cpu_dtype() if kind == 'cpu' and torch.is_autocast_cpu_enabled() else x.dtype
