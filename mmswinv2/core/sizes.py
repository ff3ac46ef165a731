"""Sizes of a backbone's blocks for an image, in tokens, elements and bytes.

Legend: B images, T tokens of a stage in all images, C channels, nH heads.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from .grid import Axis, Grid, groups
from .position_bias import CPB_HIDDEN

if TYPE_CHECKING:
    from .swin_transformer_v2 import SwinBlock, SwinTransformerV2


@dataclass(frozen=True)
class BlockSizes:
    """One block.

    Args:
        tokens: T.
        attended: Tokens that attend: T, or more where padding tokens take part.
        dim: C.
        heads: nH.
        hidden: Channels of the MLP between its layers.
        maps: Bytes of all attention maps, per cell size, in the order in which ``eager`` takes them.
        pairs: Bytes of the position bias of a whole window, one value per token pair and head.
        bias: Bytes of the position bias tables: before and after the sigmoid, scaled and cropped.
        bias_hidden: Bytes of the hidden map of a continuous bias.
        parameters: Of the block.
        matrices: Elements of its large weights.
        matrix: Elements of its largest weight.
    """

    tokens: int
    attended: int
    dim: int
    heads: int
    hidden: int
    maps: tuple[int, ...]
    pairs: int
    bias: int
    bias_hidden: int
    parameters: int
    matrices: int
    matrix: int


@dataclass(frozen=True)
class StageSizes:
    """A stage: its blocks, the parameters of its patch merging (0 in the last stage), and the elements of an image
    patch (0 except in the first stage)."""

    blocks: tuple[BlockSizes, ...]
    merge_parameters: int
    patch: int


def stage_sizes(net: SwinTransformerV2, image: Sequence[int], batch: int) -> list[StageSizes]:
    """The sizes of each stage.

    Args:
        net: The backbone, on any device: on the meta device it takes no memory.
        image: Pixels along each axis, frames along the first of three.
        batch: B.
    """
    stages: list[StageSizes] = []
    patch = net.config.in_channels * prod(net.config.patch_size)
    for stage, dim, lengths in zip(net.layers, net.arch.dims, net.map_lengths(image)):
        merge = 0 if stage.downsample is None else sum(p.numel() for p in stage.downsample.parameters())
        blocks = tuple(_block_sizes(block, dim, lengths, batch) for block in stage.blocks)
        stages.append(StageSizes(blocks, merge, 0 if stages else patch))
    return stages


def _block_sizes(block: SwinBlock, dim: int, lengths: Sequence[int], batch: int) -> BlockSizes:
    attn, channels = block.attn, block.mlp.hidden_dim
    grid: Grid = attn.grid(lengths, shifted=block.shifted)
    if not attn.config.mask_padding:
        grid = tuple(Axis(axis.padded, axis.window, axis.shift) for axis in grid)
    heads, window = attn.logit_scale.numel(), prod(axis.window for axis in grid)
    maps: dict[tuple[int, ...], int] = {}  # bytes, by the size of cells
    for group in groups(grid):
        size = tuple(run.size for run in group)
        maps[size] = maps.get(size, 0) + 4 * batch * heads * prod(run.tokens * run.size for run in group)
    rows = prod(2 * axis.window - 1 for axis in grid)
    hidden = 0 if attn.config.position_bias == 'parameterized' else 4 * rows * CPB_HIDDEN
    weights = [3 * dim * dim, dim * dim, *[dim * channels] * 2]
    return BlockSizes(batch * prod(lengths), batch * prod(axis.length for axis in grid), dim, heads, channels,
                      tuple(maps.values()), 4 * heads * window**2, 4 * rows * 4 * heads, hidden,
                      sum(p.numel() for p in block.parameters()), sum(weights), max(weights))
