"""Window attention as a function of a whole map."""
from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..checks import check_int, check_rate
from ..grid import Axis, Grid, is_symbol, lengths_of
from .backends import attend, default_budget

MAX_AXES = 3


def window_attention(qkv: Tensor, table: Tensor, logit_scale: Tensor, *, window: Sequence[int], shift: Sequence[int],
                     padding: Tensor | None = None, dropout: float = 0., backend: str = 'auto',
                     budget: int | None = None) -> Tensor:
    """Attends within the shifted windows of a map: ``softmax(scale cos(q, k) + bias) v``.

    Args:
        qkv: Queries, keys and values as projected, shape (B, *map, 3C) with one to three axes, the last axis being
            (3, nH, d).
        table: The bias table of the window, shape (nH, 2W-1, ...).
        logit_scale: Log of the scale, nH elements; it is clamped to log 100.
        window: Tokens along each axis, fitted to the map: at most as long.
        shift: Tokens along each axis by which windows are moved, less than the window.
        padding: Value of the tokens that pad the map to whole windows, shape (3C,); None: nothing attends to padding.
        dropout: Rate on the attention probabilities, in [0, 1).
        backend: ``'auto'`` for the fastest, or a name in ``BACKENDS``.
        budget: Approximate bytes that intermediate results may take; None: 64 MiB on a CPU, 512 MiB elsewhere.

    Returns:
        Shape (B, *map, C), dtype of ``qkv``.

    Raises:
        ValueError: if shapes do not fit each other, or a number or name is out of range.
        RuntimeError: if the named backend does not support the input; the message says why.
    """
    grid = _grid(qkv, window, shift)
    num_heads = logit_scale.numel()
    if not num_heads or qkv.shape[-1] % (3 * num_heads):
        raise ValueError(f'qkv must have 3 nH d channels for nH = {num_heads} heads (logit_scale), got {qkv.shape[-1]}')
    expected = (num_heads, *(2 * axis.window - 1 for axis in grid))
    if table.shape != expected:
        raise ValueError(f'table must have the shape {expected} for window={tuple(window)} and {num_heads} heads, '
                         f'got {tuple(table.shape)}')
    budget = default_budget(qkv.device) if budget is None else check_int('budget', budget, minimum=1, unit=' bytes')
    return attend(qkv, table, logit_scale, grid, padding=padding, dropout=check_rate('dropout', dropout),
                  backend=backend, budget=budget)


def _grid(qkv: Tensor, window: Sequence[int], shift: Sequence[int]) -> Grid:
    lengths = lengths_of(qkv)
    if not 1 <= len(lengths) <= MAX_AXES:
        raise ValueError(f'qkv must have the shape (B, *map, 3C) with one to {MAX_AXES} axes, got {tuple(qkv.shape)}')
    for name, value in (('window', window), ('shift', shift)):
        if len(value) != len(lengths):
            raise ValueError(f'{name} must have one entry per axis of the map, {len(lengths)}, got {tuple(value)}')
    for length, size, moved in zip(lengths, window, shift):
        if not 1 <= size or not is_symbol(length) and size > length:
            raise ValueError(f'window must be from 1 to the tokens along its axis ({tuple(lengths)}), got '
                             f'{tuple(window)}')
        if not 0 <= moved < size:
            raise ValueError(f'shift must be from 0 to less than window={tuple(window)}, got {tuple(shift)}')
    return tuple(map(Axis, lengths, window, shift))
