"""Weights that are not finite: found in one pass, named in one line."""
from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..checks import first


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors with NaN or an infinity in them, by one pass over each.

    Integers, tensors without storage (meta) and empty ones are finite.
    """
    return [name for name, value in tensors.items() if not _is_finite(value.detach())]


def check_finite(what: str, tensors: Mapping[str, Tensor]) -> None:
    """Checks that all of some tensors are finite.

    Args:
        what: What holds them, for the message.
        tensors: Names and tensors.

    Raises:
        ValueError: if one is not; the message has the number of such tensors and the first five names.
    """
    bad = not_finite(tensors)
    if bad:
        raise ValueError(f'{what} must hold finite weights, got NaN or infinity in {len(bad)} of {len(tensors)}: '
                         f'{first(bad)}')


def _is_finite(value: Tensor) -> bool:
    if not value.is_floating_point() or value.is_meta or not value.numel():
        return True
    if value.element_size() == 1:  # torch compares few kinds of float8
        value = value.float()
    stored = value.untyped_storage()
    if value.numel() * value.element_size() > stored.nbytes():  # repeated elements may not fit in memory
        value = torch.empty(0, dtype=value.dtype, device=value.device).set_(stored)
    if value.dtype == torch.float16 and value.device.type == 'cpu':  # which torch 2.1 cannot compare
        value = value.float()
    return bool(torch.stack(value.aminmax()).isfinite().all())  # NaN is the least and the largest
