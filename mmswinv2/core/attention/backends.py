"""The table of backends of window attention, the choice between them, and the call.

A backend is a function of a :class:`~.problem.Problem` and a predicate that says why it does not support one. Backends
differ in speed and memory, never in meaning: each is tested equal to ``tests/reference.py`` in output and in every
gradient.

``eager``: the formula, with whole attention maps; derivatives of any order and mode, on any device. ``cells``: chunk by
chunk within a memory budget, forward and backward; first derivatives in reverse mode. ``torch``: few calls of torch's
fused kernel, on CUDA in 16 bit. ``triton``: kernels for CUDA devices that read and write the map in place. The last
two have the derivatives of ``cells``, and prove themselves before ``auto`` takes them (:mod:`.proof`).
"""
from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from ..checks import check_int, check_rate
from ..grid import Axis, Grid, is_symbol, lengths_of, pad_to_windows, part
from ..torch_compat import device_type, is_exporting
from . import cells, eager, torch_fused
from .problem import Backend, Problem
from .proof import asking
from .triton import launch

BACKENDS = {backend.name: backend for backend in (eager.BACKEND, cells.BACKEND, torch_fused.BACKEND, launch.BACKEND)}
IN_16_BIT = ('triton', 'torch', 'cells')  # on a GPU, the fastest first
# by the name of the first: it must prove itself, or the next is taken; the last is made of torch's own operators
ASKING = {name: asking([BACKENDS[other] for other in IN_16_BIT[i:]]) for i, name in enumerate(IN_16_BIT[:-1])}
MAX_AXES = 3
MIB = 2**20
EAGER_BYTES = 16 * MIB  # of all attention maps: near a CPU's cache `eager`, which has fewer calls, is the fastest


def default_budget(device: torch.device) -> int:
    """Default bytes for intermediate results."""
    return (64 if device_type(device) == 'cpu' else 512) * MIB


def map_bytes(problem: Problem) -> int:
    """Bytes of all attention maps of a problem, materialised in the dtype that they are computed in."""
    pairs = prod([axis.pairs for axis in problem.grid])
    return problem.qkv.shape[0] * problem.logit_scale.numel() * pairs * max(4, problem.qkv.element_size())


def preferred(problem: Problem) -> tuple[str, ...]:
    """Names of backends, the fastest for a problem first (``benchmarks/crossover.py``); the last supports any."""
    if is_exporting():  # a program of torch's own operators alone, and with one choice for any batch
        return ('eager',)
    if device_type(problem.qkv.device) == 'cpu' and map_bytes(problem) <= min(EAGER_BYTES, problem.budget):
        return 'eager', 'cells'
    if problem.qkv.dtype in (torch.float16, torch.bfloat16):
        return *IN_16_BIT, 'eager'
    return 'cells', 'eager'


def choose(problem: Problem, name: str = 'auto') -> Backend:
    """Chooses the backend for a problem.

    Args:
        problem: The problem.
        name: ``'auto'`` for the fastest that supports it and, on a GPU, proves itself where it runs, or the name of
            the backend that must.

    Raises:
        ValueError: if there is no backend of that name.
        RuntimeError: if it does not support the problem; the message says why.
    """
    if name == 'auto':
        name = [other for other in preferred(problem) if BACKENDS[other].refuses(problem) is None][0]
        return ASKING.get(name, BACKENDS[name])
    if name not in BACKENDS:
        raise ValueError(f'backend must be one of auto, {", ".join(BACKENDS)}, got {name!r}')
    reason = BACKENDS[name].refuses(problem)
    if reason is not None:
        raise RuntimeError(f'backend {name!r} does not support this input: {reason}; '
                           f"attn_backend='{choose(problem).name}' does")
    return BACKENDS[name]


def attend(qkv: Tensor, table: Tensor, logit_scale: Tensor, grid: Grid, *, padding: Tensor | None, dropout: float,
           backend: str, budget: int) -> Tensor:
    """Attends within the windows of ``grid``; the arguments fit each other.

    They are those of :func:`window_attention`, which checks them.
    """
    lengths = None
    if padding is not None:
        lengths = [axis.length for axis in grid]
        qkv, grid = pad_to_windows(qkv, grid, padding)
    problem = Problem(qkv, table, logit_scale, grid, dropout, budget)
    out = choose(problem, backend).run(problem)
    for i, length in enumerate(lengths or (), 1):
        out = part(out, i, 0, length)
    return out


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
