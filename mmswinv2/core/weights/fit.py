"""Finds the backbone that given weights are for, and loads them into one, strictly."""
from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..arch import arch_name, describe_arch, get_arch
from ..checks import first, hidden_channels
from ..config import VideoConfig
from ..pretrained_windows import WINDOWS_KEY, rows_fit, store_windows, table_name, table_window, windows_unknown
from ..swin_transformer_v2 import SwinTransformerV2
from ..video import VideoSwinTransformerV2
from .adapt import inflate_state
from .read import BackboneState, group_extras

OUTPUT_NORM = re.compile(r'norm(\d)\.(weight|bias)')
# of the options that weights show
DEFAULTS = dict(in_channels=3, mlp_ratio=4., qkv_bias=True, position_bias='log_cpb', norm_placement='res_post')


def config_of(found: BackboneState) -> dict[str, Any]:
    """Finds the arguments of the backbone that weights are for, as far as the weights show them.

    The backbone is a :class:`mmswinv2.core.SwinTransformerV2`, or ``VideoSwinTransformerV2`` for weights of three axes.

    Returns:
        ``arch`` (a name if it is a known one), ``out_indices``, and arguments that differ from their defaults; windows
        if the weights say them.

    Raises:
        ValueError: if the weights do not belong to one backbone.
    """
    state = found.state
    blocks: dict[int, set[int]] = {}
    for name in state:
        match = re.match(r'layers\.(\d)\.blocks\.(\d+)\.', name)
        if match:
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    num_stages = found.num_stages
    try:
        if set(blocks) != set(range(num_stages)) or not blocks:
            raise KeyError('layers.0.blocks')
        depths = [len(blocks[i]) for i in range(num_stages)]
        for i, depth in enumerate(depths):
            if blocks[i] != set(range(depth)):
                raise KeyError(f'layers.{i}.blocks.{min(set(range(depth)) - blocks[i])}')
        proj = state['patch_embed.proj.weight']
        num_heads = [state[f'layers.{i}.blocks.0.attn.logit_scale'].shape[0] for i in range(num_stages)]
        fc1 = state['layers.0.blocks.0.mlp.fc1.weight']
    except KeyError as e:
        raise ValueError(f'checkpoint must hold each weight of the backbone; missing: {e.args[0]}') from e
    extra = [int(k.split('.')[3]) + 1 for k in state if re.fullmatch(r'layers\.\d\.blocks\.\d+\.norm3\.weight', k)]
    arch = dict(embed_dims=proj.shape[0], depths=depths, num_heads=num_heads,
                **({'extra_norm_every_n_blocks': min(extra)} if extra else {}))
    config: dict[str, Any] = dict(arch=arch_name(get_arch(arch)) or arch)
    outputs = sorted({int(m[1]) for m in map(OUTPUT_NORM.fullmatch, state) if m})
    config['out_indices'] = tuple(outputs) or (num_stages - 1,)
    if table_name(0) in state:
        known = found.pretrained_window_sizes
        config['window_size'] = [table_window(len(state[table_name(i)]), known[i] if known else None, axes=found.axes)
                                 for i in range(num_stages)]
    if found.pretrained_window_sizes is not None:
        config[WINDOWS_KEY] = [list(pair) for pair in found.pretrained_window_sizes]
    if found.window_sizes is not None:
        config['window_size'] = [list(pair) for pair in found.window_sizes]
    if found.axes == 3:
        config['temporal_patch_size'] = proj.shape[2]
    merging = state.get('layers.0.downsample.norm.weight')
    options = dict(
        position_bias='parameterized' if table_name(0) in state else found.position_bias or 'log_cpb',
        in_channels=proj.shape[1], mlp_ratio=fc1.shape[0] / proj.shape[0],
        qkv_bias='layers.0.blocks.0.attn.q_bias' in state,
        norm_placement='pre' if merging is not None and merging.shape[0] == 4 * proj.shape[0] else 'res_post')
    config.update({name: value for name, value in options.items() if value != DEFAULTS[name]})
    return config


def check_complete(found: BackboneState) -> dict[str, Any]:
    """Checks that weights are exactly those of one backbone, and returns its arguments (:func:`config_of`).

    Raises:
        ValueError: if a weight is missing, unexpected or of another shape.
    """
    config = config_of(found)
    with torch.device('meta'):
        net = (VideoSwinTransformerV2 if found.axes == 3 else SwinTransformerV2)(
            **dict(dict(pretrained_window_sizes=8), **config))
    fit_state(net, found)
    return config


def fit_state(net: SwinTransformerV2, found: BackboneState) -> tuple[dict[str, Tensor], str]:
    """Chooses the weights that a backbone takes, strictly.

    Only norms of outputs may be missing (they stay as constructed) or unused, and stages after the backbone's last. A
    backbone for video takes image weights inflated.

    Args:
        net: The backbone, also one for video.
        found: The weights.

    Returns:
        (names and tensors to load, a description of them in words).

    Raises:
        ValueError: if a weight is missing, is not the backbone's or has another shape, or if the kind of position
            bias is contradictory or the pre-training windows are unknown.
    """
    own, inflated = net.state_dict(), ''
    if net.config.axes == 3 and found.axes == 2:
        assert isinstance(net.config, VideoConfig)
        found = inflate_state(found, temporal_patch_size=net.config.temporal_patch_size,
                              temporal_window=[window[0] for window in net.pretrained_window_sizes])
        inflated = ', inflated over time'
    found = _without_later_stages(found, len(net.arch.depths))
    extras = {k: v for k, v in found.extras.items() if k not in own}
    state = {**found.state, **{k: v for k, v in found.extras.items() if k in own}}  # SimMIM's own backbone has a token
    kind = net.config.position_bias
    if found.position_bias is not None and found.position_bias != kind:
        raise ValueError(f'position_bias must be what the checkpoint was trained with, {found.position_bias!r}, '
                         f'got {kind!r}')
    unknown = windows_unknown(found.pretrained_window_sizes, net.config)
    missing = [k for k in own if k not in state and not OUTPUT_NORM.fullmatch(k) and (k != WINDOWS_KEY or unknown)]
    unexpected = [k for k in state if k not in own and not OUTPUT_NORM.fullmatch(k)]
    shapes = [f'{k} {tuple(own[k].shape)}, got {tuple(v.shape)}' for k, v in state.items()
              if k in own and own[k].shape != v.shape and not _resizable(k, v, own[k])]
    problems = [f'{what}: {len(keys)} ({first(keys)})' for what, keys in (
        ('missing', missing), ('not in the backbone', unexpected), ('of another shape', shapes)) if keys]
    if problems:
        if differ := _differences(net, found):
            theirs, ours = (', '.join(side) for side in zip(*differ))
            raise ValueError(f'checkpoint must be of a backbone with {ours}, as the config says, got one with {theirs}'
                             + (_ADAPT if theirs.startswith('in_channels') else ''))
        hint = ''
        if unknown:
            hint = ('; the file does not say which windows it was pre-trained with: '
                    f'set {WINDOWS_KEY} in the config of the backbone')
        raise ValueError(f'checkpoint must hold each weight of the backbone and no other; {"; ".join(problems)}{hint}')
    taken = {k: v for k, v in state.items() if k in own}
    if found.windows_assumed and net.config.pretrained_window_sizes is not None and rows_fit(
            state, net.pretrained_window_sizes):
        taken.pop(WINDOWS_KEY, None)  # the config knows better than the assumption
    text = f'{len(taken)} of {len(own)} entries in the layout of {found.source}{inflated}'
    fresh = [k for k in own if k not in state and OUTPUT_NORM.fullmatch(k)]
    unused = [k for k in state if k not in own]
    if fresh:
        text += f'; not in the file and left as initialised: {first(fresh)}'
    if unused:
        text += f'; of outputs that are not used: {first(unused)}'
    for rule, names in {**found.dropped, **group_extras(extras)}.items():
        text += f'; {rule}: {len(names)}'
    return taken, text


def _without_later_stages(found: BackboneState, stages: int) -> BackboneState:
    """Leaves out what follows the last of ``stages``: a backbone has no stages after its last output."""
    later = [k for k in found.state if (match := re.match(r'(?:layers\.|norm)(\d)\.', k)) and int(match[1]) >= stages
             or k.startswith(f'layers.{stages - 1}.downsample.')]
    if found.num_stages <= stages:
        return found
    state = {k: v for k, v in found.state.items() if k not in later}
    if found.pretrained_window_sizes is not None:
        store_windows(state, found.pretrained_window_sizes[:stages])
    return replace(found, state=state, window_sizes=found.window_sizes and found.window_sizes[:stages],
                   dropped={**found.dropped, 'after the last output': later})


_ADAPT = ("; init_cfg.adapt_in_channels='sum', 'mean' or 'repeat', or --adapt-in-channels of "
          'tools/convert_checkpoint.py, makes weights for other channels of them')


def _differences(net: SwinTransformerV2, found: BackboneState) -> list[tuple[str, str]]:
    """The options in which the backbone of a file differs from another, in words: (the file's, the other's)."""
    try:
        theirs = {**DEFAULTS, **config_of(found)}
        arch = get_arch(theirs['arch'])
    except ValueError:  # a weight is missing, or of an odd shape
        return []
    ours = {name: getattr(net.config, name, None) for name in theirs}
    if hidden_channels(arch.embed_dims, net.config.mlp_ratio) == round(arch.embed_dims * theirs['mlp_ratio']):
        ours['mlp_ratio'] = theirs['mlp_ratio']
    if 'parameterized' not in (ours['position_bias'], theirs['position_bias']):
        ours['position_bias'] = theirs['position_bias']  # of a continuous bias, weights do not tell the kind
    names = ('in_channels', 'mlp_ratio', 'qkv_bias', 'position_bias', 'temporal_patch_size')
    differ = [(f'{name}={theirs[name]!r}', f'no {name}' if ours[name] is None else f'{name}={ours[name]!r}')
              for name in names if name in theirs and theirs[name] != ours[name]]
    return differ if arch == net.arch else [*differ, (describe_arch(arch), describe_arch(net.arch))]


def _resizable(name: str, value: Tensor, own: Tensor) -> bool:
    return name.endswith('.relative_position_bias_table') and value.ndim == 2 and value.shape[1] == own.shape[1]


def load_backbone(net: SwinTransformerV2, found: BackboneState) -> str:
    """Loads weights into a backbone; see :func:`fit_state`.

    Returns:
        What was loaded, in words.

    Raises:
        ValueError: as :func:`fit_state`, or if the pre-training windows are contradictory.
    """
    taken, text = fit_state(net, found)
    net.load_state_dict(taken, strict=False)
    return text
