"""Options of window attention, typed and checked once."""
from __future__ import annotations

from dataclasses import dataclass

import torch

from ..checks import check_bool, check_choice, check_int, check_rate
from ..position_bias import POSITION_BIASES
from ..torch_compat import device_type
from .backends import BACKENDS

WINDOW_FITS = ('exact', 'balanced')
MIB = 2**20
MAX_BUDGET_MIB = 2**40  # whose bytes are an int64


def default_budget(device: torch.device) -> int:
    """Default bytes for intermediate results."""
    return (64 if device_type(device) == 'cpu' else 512) * MIB


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """How windows attend; the same for all blocks.

    Args:
        position_bias: ``'log_cpb'``, ``'linear_cpb'`` or ``'parameterized'``: a table, resized on load when the window
            has changed (``docs/checkpoints.md`` says how that is detected).
        qkv_bias: Whether queries and values have a bias (keys have none).
        drop_rate: Dropout after the projection, in [0, 1).
        attn_drop_rate: Dropout of attention probabilities, in [0, 1).
        attn_backend: ``'auto'`` for the fastest at each call, or a name in :data:`mmswinv2.core.attention.BACKENDS`.
        attn_budget_mib: Approximate MiB that intermediate results of attention may take, beside its input and output
            (and copies of queries, keys and values, with ``'torch'``). None: 64 on a CPU, 512 elsewhere.
        window_fit: ``'exact'``, or ``'balanced'``: per axis, the smallest window with the same number of windows. This
            makes cells more even; a continuous bias is then computed for the smaller window.
        mask_padding: Whether padding tokens, which fill a map up to whole windows, are masked. Otherwise they take part
            as tokens of zeros, as in the authors' dense code.

    Raises:
        ValueError: if a name is unknown or a number out of range.
    """

    position_bias: str = 'log_cpb'
    qkv_bias: bool = True
    drop_rate: float = 0.
    attn_drop_rate: float = 0.
    attn_backend: str = 'auto'
    attn_budget_mib: int | None = None
    window_fit: str = 'exact'
    mask_padding: bool = True

    def __post_init__(self) -> None:
        check_choice('position_bias', self.position_bias, POSITION_BIASES)
        check_choice('attn_backend', self.attn_backend, ('auto', *BACKENDS))
        check_choice('window_fit', self.window_fit, WINDOW_FITS)
        check_bool('qkv_bias', self.qkv_bias)
        check_bool('mask_padding', self.mask_padding)
        for name in ('drop_rate', 'attn_drop_rate'):
            object.__setattr__(self, name, check_rate(name, getattr(self, name)))
        if self.attn_budget_mib is not None:
            object.__setattr__(self, 'attn_budget_mib', check_int(
                'attn_budget_mib', self.attn_budget_mib, minimum=1, maximum=MAX_BUDGET_MIB, unit=' MiB or None'))

    @property
    def budget(self) -> int | None:
        """Bytes, or None for the device's default."""
        return None if self.attn_budget_mib is None else self.attn_budget_mib * MIB
