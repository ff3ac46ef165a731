"""Inflates image weights to video weights, exactly: on a clip of one repeated frame the model computes the same.

The weights of the embedding are divided among its frames. The position bias does not tell frames apart at first: the
third column of a continuous bias's first layer is zero, and learns; a table is repeated over time. Attention over
copies of the same tokens then equals attention over one of them, at every layer.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..checks import MAX_WINDOW, check_int, is_int, is_list
from ..position_bias import from_rows, table_window, to_rows
from .state import EMBEDDING, BackboneState, read_backbone_state
from .windows import say_windows

TABLE = 'attn.relative_position_bias_table'


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
        elif name.endswith(TABLE):
            table = from_rows(value, table_window(len(value), None if windows is None else windows[stage]))
            value = to_rows(table[:, None].expand(-1, 2 * times[stage] - 1, -1, -1))
        out[name] = value
    if windows is not None:
        say_windows(out, tuple((time, *window) for time, window in zip(times, windows)))
    sizes = found.window_sizes
    sizes = sizes and tuple((time, *window) for time, window in zip(times, sizes))
    return replace(found, state=out, window_sizes=sizes)
