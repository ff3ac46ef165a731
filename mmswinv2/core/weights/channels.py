"""Adapts the patch embedding of a file to images with another number of channels."""
from __future__ import annotations

from dataclasses import replace

import torch

from ..checks import check_choice, check_int
from .state import EMBEDDING, BackboneState

ADAPTATIONS = ('sum', 'mean', 'repeat')


def adapt_in_channels(found: BackboneState, in_channels: int, how: str) -> BackboneState:
    """Makes weights for images of ``in_channels`` channels of those for others, such as RGB; other weights stay.

    Args:
        found: Of a backbone on images or clips of M channels; not changed.
        in_channels: N channels of the images; if N = M, nothing is done.
        how: For N < M: each channel gets the ``'sum'`` or the ``'mean'`` of the file's weights over their channels; or,
            with ``'repeat'``, channel i gets the sum of the file's channels i, i + N, ...: the model computes what the
            file's does on an image whose channels are repeated in turn up to M. For N > M the first M channels keep
            the file's weights, and the others begin at 0, whichever it is. Nothing is rescaled.

    Raises:
        ValueError: if ``in_channels`` is < 1, or ``how`` is another.
    """
    check_int('in_channels', in_channels, minimum=1)
    check_choice('adapt_in_channels', how, ADAPTATIONS)
    weight = found.state[EMBEDDING]  # (C, M, *patch)
    channels = weight.shape[1]
    if in_channels == channels:
        return found
    if how == 'repeat' or in_channels > channels:
        adapted = weight.new_zeros(len(weight), in_channels, *weight.shape[2:])
        weight = adapted.index_add(1, torch.arange(channels) % in_channels, weight)
    else:
        weight = getattr(weight, how)(1, keepdim=True).repeat_interleave(in_channels, 1)
    return replace(found, state={**found.state, EMBEDDING: weight})
