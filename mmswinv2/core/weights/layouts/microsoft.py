"""The release, ``{'model': ...}``: it saves coordinates, index and, where windows are shifted, masks.

Source (names and buffers):
    microsoft/Swin-Transformer, ``models/swin_transformer_v2.py``.
"""
from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .base import Layout, Pairs, has_blocks
from .buffers import Geometry, window_buffers


def buffers(shape: Geometry) -> dict[str, Tensor]:
    """The buffers that the release's strict loading needs, for given windows and image size.

    Raises:
        ValueError: if windows are not square, or the image is not one of the release's.
    """
    if any(h != w for h, w in (*shape.windows, *shape.pretrained)):
        raise ValueError(f'window_size and pretrained_window_sizes must be square for microsoft, got {shape.windows} '
                         f'and {shape.pretrained}')
    stride = 2**(len(shape.depths) + 1)  # pixels, of the last stage
    image_size = stride * shape.windows[-1][0] if shape.image_size is None else shape.image_size
    if image_size < stride or image_size % stride:
        raise ValueError(f'image_size must be a multiple of {stride} px for microsoft, got {image_size}')
    maps = [image_size // (4 * 2**i) for i in range(len(shape.depths))]  # tokens along an axis
    windows = tuple((min(w, tokens),) * 2 for (w, _), tokens in zip(shape.windows, maps))  # as the release shrinks them
    out = window_buffers(replace(shape, windows=windows))
    for i, j in shape.blocks:
        if j % 2 and maps[i] > windows[i][0]:
            out[f'layers.{i}.blocks.{j}.attn_mask'] = shift_mask(maps[i], windows[i][0])
    return out


def shift_mask(resolution: int, size: int) -> Tensor:
    """The release's mask of windows shifted by half: 0 or -100, (windows, N, N).

    Raises:
        ValueError: if windows of ``size`` tokens do not divide a map of ``resolution`` tokens along an axis.
    """
    if resolution % size:
        raise ValueError(f'image_size must give maps that windows divide for microsoft, got a map of {resolution} '
                         f'tokens and windows of {size}')
    at = torch.arange(resolution)
    region = (at >= resolution - size).long() + (at >= resolution - size // 2)  # the last is of the map's beginning
    ids = (3 * region[:, None] + region).view(resolution // size, size, resolution // size, size)
    ids = ids.transpose(1, 2).reshape(-1, size**2)  # (windows, N)
    return torch.where(ids[:, :, None] == ids[:, None, :], 0., -100.)


LAYOUT = Layout(
    'microsoft',
    embedding='patch_embed.proj.weight',
    matches=lambda names, root: has_blocks(names),  # none of the others
    aliases=Pairs(('head.fc.{part}', 'head.{part}')),
    extras=Pairs(('head.{part}', 'head.{part}')),
    container='model',
    buffers=buffers,
    windows_matter=True)
