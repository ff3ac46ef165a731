"""The ground that backends of window attention stand on: the problem that they solve, and what a backend is."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..grid import Grid


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


@dataclass(frozen=True)
class Backend:
    """A way to compute window attention.

    Args:
        name: Its name in ``attn_backend``.
        run: A problem to its result, shape (B, *map, C).
        refuses: A problem to the reason why it is not supported, or None.
    """

    name: str
    run: Callable[[Problem], Tensor]
    refuses: Callable[[Problem], str | None]
