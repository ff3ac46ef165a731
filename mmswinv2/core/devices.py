"""Which device a tensor stands for, and constants that are computed once per device."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import Any, TypeVar

import torch

from .operators import is_transformed

T = TypeVar('T')
KEPT = 64  # results of a function

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


def made_once(function: Callable[..., T]) -> Callable[..., T]:
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
        return keep(*args) if _may_keep(args[-1]) else function(*args)
    return call


def _may_keep(device: torch.device) -> bool:
    if is_transformed() or type(torch.empty(0)) is not torch.Tensor:
        return False
    return device.type != 'cuda' or not torch.cuda.is_current_stream_capturing()
