"""The pre-training windows of weights: the file must say them or the config must, and the two must agree.

Windows are in tokens, one entry per stage, each with one number per axis: (h, w).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..checks import Windows, as_configured

WINDOWS_KEY = 'pretrained_window_sizes'  # argument of a backbone, and entry of its state dict, (stages, axes)


def windows_tensor(windows: Sequence[Sequence[int]]) -> Tensor:
    """Windows in the form of a state dict: int64, shape (stages, axes), on the CPU."""
    return torch.tensor(windows, dtype=torch.int64, device='cpu')


def said_windows(state: Mapping[str, Tensor], prefix: str = '') -> Windows | None:
    """The windows that a state dict says; None where it does not."""
    saved = state.get(prefix + WINDOWS_KEY)
    return None if saved is None else tuple(tuple(int(n) for n in window) for window in saved.tolist())


def say_windows(state: dict[str, Tensor], windows: Windows) -> None:
    """Puts windows into a state dict."""
    state[WINDOWS_KEY] = windows_tensor(windows)


def check_same(name: str, got: Windows | None, right: Windows | None, rule: str) -> None:
    """Checks that two statements of windows agree, if both are given.

    Args:
        name: The source of ``got``, for the message.
        got: Windows, or None.
        right: Windows, or None.
        rule: A description of ``right``, for the message.

    Raises:
        ValueError: if they differ.
    """
    if got is not None and right is not None and got != right:
        raise ValueError(f'{name} must be {rule}, {as_configured(right)}, got {as_configured(got)}')


def check_configured(saved: Windows, configured: Windows, saved_as: Windows) -> None:
    """Checks the windows of a config against those that a state dict says.

    Args:
        saved: Windows of the state dict.
        configured: Windows of the config.
        saved_as: Windows that a state dict of the configured backbone would have. For a table this is its own window,
            where its rows do not tell that.

    Raises:
        ValueError: if the state dict says neither of the two in a stage.
    """
    if len(saved) != len(configured) or any(
            window not in pair for window, pair in zip(saved, zip(configured, saved_as))):
        raise ValueError(
            f'{WINDOWS_KEY} must be what the checkpoint was pre-trained with, {as_configured(saved)}, got '
            f'{as_configured(configured)}; set {WINDOWS_KEY}={as_configured(saved)} in the config of the backbone')


def nobody_says(saved: Windows | None, given: bool) -> bool:
    """Whether neither a state dict nor the config says the windows: such weights cannot be used.

    Args:
        saved: Windows of the state dict, or None.
        given: Whether the config says them.
    """
    return saved is None and not given
