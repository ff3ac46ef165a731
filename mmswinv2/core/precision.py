"""Computing in the dtype of the inputs, whatever autocast says."""
from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Switches autocast off for a device; the meta device has none, and no switch."""
    return nullcontext() if device.type == 'meta' else torch.autocast(device.type, enabled=False)
