"""Launches Triton kernels, and reports each launch to observers that count costs."""
from __future__ import annotations

import os
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec

import torch
from torch import Tensor

OLDEST = (3, 0)  # Triton without ``input_precision`` computes float32 products in TF32
INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'  # Triton reads it when kernels are defined
# called at each launch with (kernel, tensors, flops, pairs, dtype, writes), as launch() is given them
OBSERVERS: list[Callable[[str, dict[str, Tensor], int, int, torch.dtype, tuple[str, ...]], None]] = []


def _missing() -> str | None:
    if find_spec('triton') is None:
        return 'Triton is not installed (CUDA builds of torch for Linux bring it)'
    for name in ('triton', 'pytorch-triton', 'triton-windows'):  # its distributions
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if tuple(int(part) for part in version.split('+')[0].split('.')[:2]) < OLDEST:
            return f'Triton must be {".".join(map(str, OLDEST))} or newer, got {version}'
    return None


MISSING = _missing()  # why kernels cannot be started here, or None; found without importing Triton


def launch(kernel: str, grid: tuple[int, ...], tensors: dict[str, Tensor], constants: dict, *, flops: int, pairs: int,
           dtype: torch.dtype, writes: tuple[str, ...]) -> None:
    """Launches a kernel; on the meta device, where costs are counted, it launches nothing and needs no Triton.

    Args:
        kernel: Its name in :mod:`mmswinv2.core.attention.triton_kernels`.
        grid: Programs.
        tensors: Contiguous ones by the names of the kernel's arguments.
        constants: The other arguments, and ``num_warps`` and ``num_stages``.
        flops: FLOPs of its matrix products.
        pairs: Pairs of a query and a key that it processes, in all heads.
        dtype: Of the products.
        writes: Names of tensors that it writes; the others it reads.
    """
    for observe in OBSERVERS:
        observe(kernel, tensors, flops, pairs, dtype, writes)
    device = next(iter(tensors.values())).device
    if device.type == 'meta':
        return
    from . import triton_kernels
    with torch.cuda.device(device if device.type == 'cuda' else -1):  # Triton starts kernels on the current device
        getattr(triton_kernels, kernel)[grid](**tensors, **constants)
