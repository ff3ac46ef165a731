"""Derived tensors that some projects save beside the weights: coordinates and index of relative positions.

Legend: window (Wh, Ww) in tokens, N = Wh*Ww.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...checks import Window, Windows, as_configured
from ...position_bias import relative_coordinates

MAX_BUFFERS = 8 * 2**30  # bytes


@dataclass(frozen=True)
class Geometry:
    """The sizes that derived tensors depend on.

    Args:
        target: Name of the layout, for messages.
        depths: Blocks per stage.
        pretrained: Pre-training windows, per stage, in tokens.
        windows: Of each stage, in tokens.
        image_size: In pixels; None: the layout's own choice.
        log_spaced: Whether coordinates are log-spaced.
    """

    target: str
    depths: tuple[int, ...]
    pretrained: Windows
    windows: Windows
    image_size: int | None = None
    log_spaced: bool = True

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """(stage, block) of each block."""
        return [(i, j) for i, depth in enumerate(self.depths) for j in range(depth)]

    def check_size(self, size: int, whose: str) -> None:
        """Checks that buffers fit in memory.

        Raises:
            ValueError: if ``size`` bytes are more than ``MAX_BUFFERS``.
        """
        if size > MAX_BUFFERS:
            raise ValueError(f'window_size and image_size must give buffers of at most {MAX_BUFFERS / 2**30:.0f} GiB '
                             f'for {self.target}, got {size / 2**30:.3g} GiB for {whose}')


def window_bytes(window: Sequence[int]) -> int:
    """Bytes of the coordinates and the index of a window."""
    pairs = offsets = 1
    for n in window:
        pairs, offsets = pairs * n**2, offsets * (2 * n - 1)
    return 8 * pairs + 4 * len(window) * offsets


def coordinates(window: Window, pretrained: Window, *, log_spaced: bool = True) -> Tensor:
    """Coordinates of each offset: (1, 2Wh-1, 2Ww-1, 2), float32."""
    return relative_coordinates(window, pretrained, log_spaced=log_spaced)[None]


def pair_index(window: Sequence[int]) -> Tensor:
    """Index of the offset of each query from each key: (N, N), int64."""
    positions = torch.cartesian_prod(*(torch.arange(n) for n in window)).view(-1, len(window))  # (N, axes)
    index = torch.zeros((), dtype=torch.int64)
    for n, at in zip(window, positions.unbind(1)):
        index = index * (2 * n - 1) + at[:, None] - at[None, :] + n - 1
    return index


def window_buffers(shape: Geometry) -> dict[str, Tensor]:
    """Coordinates and index for the windows of each stage.

    Raises:
        ValueError: if they are too large.
    """
    shape.check_size(sum(window_bytes(shape.windows[i]) for i, _ in shape.blocks),
                     f'windows of {as_configured(shape.windows)} tokens')
    buffers = {}
    for i, j in shape.blocks:
        stem = f'layers.{i}.blocks.{j}.attn.'
        buffers[stem + 'relative_coords_table'] = coordinates(shape.windows[i], shape.pretrained[i],
                                                              log_spaced=shape.log_spaced)
        buffers[stem + 'relative_position_index'] = pair_index(shape.windows[i])
    return buffers
