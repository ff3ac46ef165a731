"""Derived tensors that some projects save beside the weights: coordinates and index of relative positions.

Legend: window (Wh, Ww) in tokens, N = Wh*Ww.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...checks import Windows
from ...position_bias import relative_coordinates


@dataclass(frozen=True)
class Geometry:
    """The sizes that derived tensors depend on.

    Args:
        depths: Blocks per stage.
        pretrained: Pre-training windows, per stage, in tokens.
        windows: Of each stage, in tokens.
        image_size: In pixels; None: the layout's own choice.
        log_spaced: Whether coordinates are log-spaced.
    """

    depths: tuple[int, ...]
    pretrained: Windows
    windows: Windows
    image_size: int | None = None
    log_spaced: bool = True

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """(stage, block) of each block."""
        return [(i, j) for i, depth in enumerate(self.depths) for j in range(depth)]


def pair_index(window: Sequence[int]) -> Tensor:
    """Index of the offset of each query from each key: (N, N), int64."""
    positions = torch.cartesian_prod(*(torch.arange(n) for n in window)).view(-1, len(window))  # (N, axes)
    index = torch.zeros((), dtype=torch.int64)
    for n, at in zip(window, positions.unbind(1)):
        index = index * (2 * n - 1) + at[:, None] - at[None, :] + n - 1
    return index


def window_buffers(shape: Geometry) -> dict[str, Tensor]:
    """Coordinates, (1, 2Wh-1, 2Ww-1, 2) in float32, and index for the windows of each block."""
    buffers = {}
    for i, j in shape.blocks:
        stem = f'layers.{i}.blocks.{j}.attn.'
        buffers[stem + 'relative_coords_table'] = relative_coordinates(
            shape.windows[i], shape.pretrained[i], log_spaced=shape.log_spaced)[None]
        buffers[stem + 'relative_position_index'] = pair_index(shape.windows[i])
    return buffers
