"""Adapts the weights of a file to another model: to video, other channels of images, other classes.

Image weights become video weights exactly: on a clip of one repeated frame, the model computes the same. The weights of
the embedding are divided among its frames. The position bias does not tell frames apart at first: the third column of a
continuous bias's first layer is zero, and learns; a table is repeated over time. Attention over copies of the same
tokens then equals attention over one of them, at every layer.
"""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..checks import MAX_WINDOW, check_choice, check_int, is_int, is_list
from ..position_bias import from_rows, to_rows
from ..pretrained_windows import EMBEDDING, store_windows, table_window
from .read import BackboneState, read_backbone_state

ADAPTATIONS = ('sum', 'mean', 'repeat')


def inflate(state: Mapping[str, Tensor], *, temporal_patch_size: int = 2,
            temporal_window: int | Sequence[int] = 8) -> dict[str, Tensor]:
    """Inflates the weights of a backbone on images to those of :class:`mmswinv2.core.VideoSwinTransformerV2`.

    On a clip of one repeated frame, each token of the video model equals the image model's token on that frame. This
    holds if the number of frames is a multiple of ``temporal_patch_size``, windows over (h, w) are the same, and
    padding tokens are masked.

    Args:
        state: Of a backbone on images, in any known layout; it is not changed. A head beside it is left out.
        temporal_patch_size: P, frames of a patch.
        temporal_window: Pre-training window along t in tokens, which normalises offsets in time: an int or one per
            stage.

    Returns:
        Weights in our names; ``patch_embed.proj.weight`` (C, 3, P, 4, 4), ``cpb_mlp.0.weight`` (512, 3) or tables with
        rows for (t, h, w), and, if ``state`` says its pre-training windows, these with t.

    Raises:
        ValueError: if ``state`` is not of a backbone on images, or another argument is out of range.
    """
    return inflate_state(read_backbone_state(state), temporal_patch_size=temporal_patch_size,
                         temporal_window=temporal_window).state


def inflate_state(found: BackboneState, *, temporal_patch_size: int,
                  temporal_window: int | Sequence[int]) -> BackboneState:
    """Inflates weights that were read, and their file's other entries; see :func:`inflate`."""
    state, stages = found.state, found.num_stages
    if found.axes != 2:
        raise ValueError(f'state must be of a backbone on images, got {EMBEDDING} of shape '
                         f'{tuple(state[EMBEDDING].shape)}')
    frames = check_int('temporal_patch_size', temporal_patch_size, minimum=1, maximum=MAX_WINDOW, unit=' frames')
    times = [temporal_window] * stages if is_int(temporal_window) else temporal_window
    if not is_list(times) or len(times) != stages:
        raise ValueError(f'temporal_window must be an integer or one per stage, {stages} in all, got '
                         f'{temporal_window!r}')
    times = [check_int('temporal_window', time, minimum=1, maximum=MAX_WINDOW, unit=' tokens') for time in times]
    windows = found.pretrained_window_sizes
    out = {}
    for name, value in state.items():
        stage = int(name.split('.')[1]) if name.startswith('layers.') else 0
        if name == EMBEDDING:
            value = (value / frames)[:, :, None].repeat(1, 1, frames, 1, 1)
        elif name.endswith('cpb_mlp.0.weight'):
            value = torch.cat([torch.zeros_like(value[:, :1]), value], 1)  # coordinates are (t, h, w)
        elif name.endswith('.relative_position_bias_table'):
            table = from_rows(value, table_window(len(value), None if windows is None else windows[stage]))
            value = to_rows(table[:, None].expand(-1, 2 * times[stage] - 1, -1, -1))
        out[name] = value
    if windows is not None:
        store_windows(out, tuple((time, *window) for time, window in zip(times, windows)))
    sizes = found.window_sizes
    sizes = sizes and tuple((time, *window) for time, window in zip(times, sizes))
    return replace(found, state=out, window_sizes=sizes)


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


def read_rows(path: str | os.PathLike) -> list[int]:
    """Reads which row of a larger head each class takes: one number per line, from 0.

    The release has such a list for ImageNet-22K to 1K, ``data/map22kto1k.txt``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is no number >= 0, or there is none.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'head_rows must be a file with one row number >= 0 per class, there is none at {path}')
    lines = Path(path).read_text(encoding='utf-8').split()
    if not lines or not all(line.isdecimal() for line in lines):
        wrong = next((line for line in lines if not line.isdecimal()), 'nothing')
        raise ValueError(f'head_rows must be a file with one row number >= 0 per class, got {wrong!r} in {path}')
    return [int(line) for line in lines]


def take_rows(head: Mapping[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
    """Takes rows of a head, in the order of the classes that they are for.

    Args:
        head: Names and tensors of K rows each.
        rows: Row numbers, one per class.

    Raises:
        ValueError: if a row is not in the head.
    """
    taken = {}
    for name, value in head.items():
        if max(rows) >= len(value):
            raise ValueError(f'head_rows must be numbers below the {len(value)} rows of {name}, got {max(rows)}')
        taken[name] = value.index_select(0, torch.tensor(rows))
    return taken
