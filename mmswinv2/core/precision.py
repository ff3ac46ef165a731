"""What autocast says, and computing in the dtype of the inputs whatever it says."""
from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Switches autocast off for a device; the meta device has none, and no switch."""
    if device.type == 'meta' or autocast_dtype(device.type) is None:
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def product_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype of a matrix product of ``x``: that of autocast where it is on."""
    return autocast_dtype(x.device.type) or x.dtype


def autocast_dtype(kind: str) -> torch.dtype | None:
    """The dtype of autocast on devices of a type, or None where it is off."""
    if kind not in ('cpu', 'cuda'):
        return None
    if hasattr(torch, 'get_autocast_dtype'):  # torch 2.4
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    if kind == 'cuda':
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
    return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
