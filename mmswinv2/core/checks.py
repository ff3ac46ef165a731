"""Checks of a user's arguments: each returns the value in one form, or raises a ``ValueError`` with name and value."""
from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any, TypeGuard

Window = tuple[int, ...]  # tokens along each axis
Windows = tuple[Window, ...]  # of each stage
AXES = {1: '(w,)', 2: '(h, w)', 3: '(t, h, w)'}
MIN_WINDOW = {1: (2,), 2: (2, 2), 3: (1, 2, 2)}  # tokens, by the number of axes: a window may be a single frame
MAX_WINDOW = 4096  # tokens along an axis: all of an image of 16384 px at the first stage


def is_int(value: object) -> TypeGuard[int]:
    """Whether ``value`` is an integer and not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether ``value`` is a list or another sequence, and not text or bytes."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))


def _is_real(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


def check_bool(name: str, value: bool) -> bool:
    """Returns a bool as it is; nothing else is taken for one: the text 'False' would count as True."""
    if not isinstance(value, bool):
        raise ValueError(f'{name} must be a bool, got {value!r}')
    return value


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """Returns a name as it is; it must be one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f'{name} must be one of {", ".join(choices)}, got {value!r}')
    return value


def check_int(name: str, value: int, *, minimum: int | None = None, maximum: int | None = None, unit: str = '') -> int:
    """Returns an integer, numpy's too, as an int.

    Args:
        name: For the message.
        value: What the user gave.
        minimum: The least value.
        maximum: The largest value; only with ``minimum``.
        unit: For the message, with other values that are allowed: ``' MiB or None'``.
    """
    least, most = (-math.inf if minimum is None else minimum), (math.inf if maximum is None else maximum)
    if not is_int(value) or not least <= value <= most:
        limits = '' if minimum is None else f' >= {minimum}' if maximum is None else f' from {minimum} to {maximum}'
        raise ValueError(f'{name} must be an integer{limits}{unit}, got {value!r}')
    return int(value)


def check_rate(name: str, value: float) -> float:
    """Returns a probability in [0, 1), numpy's too, as a float."""
    if not _is_real(value) or not 0 <= value < 1:
        raise ValueError(f'{name} must be a probability in [0, 1), got {value!r}')
    return float(value)


def hidden_channels(dim: int, mlp_ratio: float) -> int:
    """The hidden channels, at least one, of an MLP on ``dim`` channels; ``mlp_ratio`` must be finite and > 0."""
    if not _is_real(mlp_ratio) or not 0 < mlp_ratio <= sys.float_info.max:
        raise ValueError(f'mlp_ratio must be a finite number > 0, got {mlp_ratio!r}')
    hidden = int(dim * mlp_ratio)
    if hidden < 1:
        raise ValueError(f'mlp_ratio must give >= 1 hidden channels, got {mlp_ratio!r} for {dim} channels')
    return hidden


def to_window(name: str, value: int | Sequence[int], *, axes: int = 2) -> Window:
    """A window in tokens along each axis, ``MIN_WINDOW`` to ``MAX_WINDOW``, from an int or one per axis."""
    window = (value,) * axes if is_int(value) else value
    if not is_list(window) or len(window) != axes or not all(is_int(v) for v in window):
        raise ValueError(f'{name} must be an integer or {AXES[axes]} in tokens, got {value!r}')
    least = MIN_WINDOW[axes]
    if any(v < limit for v, limit in zip(window, least)):
        raise ValueError(f'{name} must be >= {as_configured([least])[0]} tokens, got {value!r}')
    if max(window) > MAX_WINDOW:
        raise ValueError(f'{name} must be <= {MAX_WINDOW} tokens, got {value!r}')
    return tuple(int(v) for v in window)


def to_windows(name: str, value: int | Sequence, num_stages: int, *, axes: int = 2) -> Windows:
    """A window per stage, from an int or one entry per stage, each as for :func:`to_window`."""
    if is_int(value):
        return (to_window(name, value, axes=axes),) * num_stages
    if not is_list(value):
        raise ValueError(f'{name} must be an integer or a list with one entry per stage, got {value!r}')
    return tuple(to_window(f'{name}[{i}]', v, axes=axes) for i, v in enumerate(_one_per_stage(name, value, num_stages)))


def to_flags(name: str, value: bool | Sequence[bool], num_stages: int) -> tuple[bool, ...]:
    """A bool per stage, from a bool or one bool per stage."""
    if isinstance(value, bool):
        return (value,) * num_stages
    if not is_list(value) or not all(isinstance(v, bool) for v in value):
        raise ValueError(f'{name} must be a bool or a list of bools, one per stage, got {value!r}')
    return tuple(_one_per_stage(name, value, num_stages))


def _one_per_stage(name: str, value: Sequence, num_stages: int) -> Sequence:
    if len(value) != num_stages:
        raise ValueError(f'{name} must have one entry per stage, {num_stages} in all, got {len(value)}: {value!r}')
    return value


def as_configured(windows: Sequence[Sequence[int]]) -> list:
    """Windows, one entry per stage, as they stand in configs: an int where all sides are equal."""
    return [window[0] if len(set(window)) == 1 else tuple(window) for window in windows]


def first(names: Iterable[str], count: int = 5) -> str:
    """The first few of many names, for a message."""
    names = list(names)
    return ', '.join(names[:count]) + (', ...' if len(names) > count else '')
