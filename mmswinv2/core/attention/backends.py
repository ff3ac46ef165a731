"""Backends of window attention: their input, which problems each takes, and which is chosen.

A backend is a function of a :class:`Problem` and a predicate that says why it refuses one. Backends differ in speed and
memory, never in meaning: each is tested equal to ``tests/reference.py`` in output and in every gradient.

``eager``: the formula, with whole attention maps; derivatives of any order and mode, on any device. ``cells``: chunk by
chunk within a memory budget, forward and backward; first derivatives in reverse mode, also under ``torch.func``.
``torch``: few calls of torch's fused kernel, on CUDA in 16 bit; the derivatives of ``cells``. ``triton``: kernels for
CUDA devices that read and write the map in place; the derivatives of ``cells``.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor

from ..devices import device_type
from ..grid import Grid
from ..operators import is_exporting
from . import fused, triton_attention
from .derivatives import refuses_derivative
from .eager import eager_attention
from .operator import kernel_attention

EAGER_BYTES = 16 * 2**20  # of all attention maps, on a CPU


@dataclass(frozen=True)
class Problem:
    """Attention of one map.

    Args:
        qkv: Queries, keys and values as projected, shape (B, *map, 3C), the last axis being (3, nH, d).
        table: The bias table of the window, shape (nH, 2W-1, ...).
        logit_scale: Log of the scale, nH elements, clamped by the backend to log 100.
        grid: One axis of windows per axis of the map.
        dropout: Rate on the attention probabilities.
        budget: Approximate bytes that intermediate results may take.
    """

    qkv: Tensor
    table: Tensor
    logit_scale: Tensor
    grid: Grid
    dropout: float = 0.
    budget: int = 64 * 2**20

    @property
    def map_bytes(self) -> int:
        """Bytes of all attention maps, materialised in the dtype that they are computed in."""
        pairs = prod([axis.pairs for axis in self.grid])
        return self.qkv.shape[0] * self.logit_scale.numel() * pairs * max(4, self.qkv.element_size())


@dataclass(frozen=True)
class Backend:
    """A way to compute window attention.

    Args:
        name: Its name in ``attn_backend``.
        run: A problem to its result, shape (B, *map, C).
        refuses: A problem to the reason why it is refused, or None.
    """

    name: str
    run: Callable[[Problem], Tensor]
    refuses: Callable[[Problem], str | None]


def _takes_all(problem: Problem) -> None:
    return None


def _triton_refuses(problem: Problem) -> str | None:
    return triton_attention.refuses(problem) or refuses_derivative(problem)


BACKENDS = {backend.name: backend for backend in (
    Backend('eager', eager_attention, _takes_all),
    Backend('cells', partial(kernel_attention, 'cells'), refuses_derivative),
    Backend('torch', partial(kernel_attention, 'torch'), fused.refuses),
    Backend('triton', partial(kernel_attention, 'triton'), _triton_refuses),
)}


def is_small(device: str, maps: int, budget: int) -> bool:
    """Whether ``eager`` is the fastest, because it has fewer calls: on a CPU, where attention maps stay near the cache.

    Args:
        device: Type of the device, such as ``'cpu'``.
        maps: Bytes of all attention maps.
        budget: Bytes.
    """
    return device == 'cpu' and maps <= min(EAGER_BYTES, budget)


def preferred(problem: Problem) -> tuple[str, ...]:
    """Names of backends, the fastest for a problem first (``benchmarks/crossover.py``); the last one takes any."""
    if is_exporting():  # a program of torch's own operators alone, and with one choice for any batch
        return ('eager',)
    if is_small(device_type(problem.qkv.device), problem.map_bytes, problem.budget):
        return 'eager', 'cells'
    if problem.qkv.dtype in (torch.float16, torch.bfloat16):
        return 'triton', 'torch', 'cells', 'eager'
    return 'cells', 'eager'


def choose(problem: Problem, name: str = 'auto') -> Backend:
    """Chooses the backend for a problem.

    Args:
        problem: The problem.
        name: ``'auto'`` for the fastest that takes it, or the name of the backend that must.

    Raises:
        ValueError: if there is no backend of that name.
        RuntimeError: if it refuses the problem; the message says why.
    """
    if name == 'auto':
        name = [other for other in preferred(problem) if BACKENDS[other].refuses(problem) is None][0]
        return BACKENDS[name]
    if name not in BACKENDS:
        raise ValueError(f'backend must be one of auto, {", ".join(BACKENDS)}, got {name!r}')
    reason = BACKENDS[name].refuses(problem)
    if reason is not None:
        raise RuntimeError(f'backend {name!r} does not take this problem: {reason}; '
                           f"attn_backend='{choose(problem).name}' does")
    return BACKENDS[name]
