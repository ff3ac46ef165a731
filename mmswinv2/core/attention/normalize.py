"""Rows of queries and keys divided by their length."""
from __future__ import annotations

import math

import torch
from torch import Tensor

from ..operators import is_transformed

MAX_LOGIT_SCALE = math.log(100)  # a temperature of at least 0.01
SAFE = (1e-18, 1e18)  # lengths whose squares neither under- nor overflow in float32


def scale_of(logit_scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The factor on cosines: ``exp(min(logit_scale, log 100))``, in ``dtype``."""
    return logit_scale.to(dtype).clamp(max=MAX_LOGIT_SCALE).exp()


def cosine_normalize(x: Tensor, scale: Tensor | None = None) -> Tensor:
    """Divides each row by its length, in float32 or better; a row of zeros gives zeros with a zero gradient.

    ``F.normalize`` divides by ``max(|x|, eps)``: another function for short rows, with a gradient of 1/eps at zero.
    Keys of padding tokens are exactly zero, and in half precision that gradient becomes NaN.

    Args:
        x: Shape (..., d), any floating dtype.
        scale: Length of the resulting rows instead of 1, a shape that broadcasts to (..., 1).

    Returns:
        Shape (..., d), float32 (float64 for float64).
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    # rows are scaled to a largest entry of 1 first, so that no square under- or overflows
    largest = x.detach().abs().amax(-1, keepdim=True)
    zero = largest == 0
    x = x / largest.masked_fill(zero, 1)
    inverse = x.square().sum(-1, keepdim=True).masked_fill(zero, 1).rsqrt().masked_fill(zero, 0)
    return x * (inverse if scale is None else scale * inverse)


def inverse_lengths(x: Tensor) -> Tensor:
    """One over the length of each row of (..., d), 0 for a row of zeros: (..., 1), without a derivative."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    if _squares_are_safe(length):
        return length.reciprocal_()
    largest = x.abs().amax(-1, keepdim=True)
    largest = largest.masked_fill(largest == 0, 1)
    length = torch.linalg.vector_norm(x / largest, dim=-1, keepdim=True) * largest
    return length.reciprocal().masked_fill(length == 0, 0)


def _squares_are_safe(length: Tensor) -> bool:
    """Whether lengths are known to be in range; only CPU values are read, since reading others waits for the device."""
    if type(length) is not Tensor or length.device.type != 'cpu' or not length.numel() or is_transformed():
        return False
    low, high = length.aminmax()
    return SAFE[0] <= low.item() and high.item() <= SAFE[1]


def unit_rows(x: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Divides rows by their length in place, for kernels: without a derivative.

    Args:
        x: Shape (..., d), float32 or float64.
        scale: As in :func:`cosine_normalize`.

    Returns:
        (``x``, the inverse of each row's former length, 0 for a row of zeros, shape (..., 1)).
    """
    inverse = inverse_lengths(x)
    return x.mul_(inverse if scale is None else inverse * scale), inverse
