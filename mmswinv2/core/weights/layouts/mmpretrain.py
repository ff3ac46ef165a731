"""mmpretrain and mmcls: their names of stages; patch merging begins a stage, in the channel order of ``nn.Unfold``.

Legend: C channels; merging takes four tokens at (row, column) of a 2 x 2 patch.

Source (names and buffers):
    open-mmlab/mmpretrain 1.2, ``models/backbones/swin_transformer_v2.py``.
"""
from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from .base import Layout, Pairs, Rearrangement, any_name, in_blocks
from .buffers import window_buffers


def unfold_order(inputs: int) -> Tensor:
    """For each input of the release's merging, its index in the order of ``nn.Unfold``: (4C,), int64.

    ``nn.Unfold`` gives (channel, row, column); the release concatenates (0,0), (1,0), (0,1), (1,1) of all channels.
    """
    return torch.arange(inputs).unflatten(0, (-1, 2, 2)).permute(2, 1, 0).flatten()  # (column, row, C)


def _reorder(state: dict[str, Tensor], *, inverse: bool) -> dict[str, Tensor]:
    out = {}
    for name, value in state.items():
        reduction = name.replace('norm.weight', 'reduction.weight').replace('norm.bias', 'reduction.weight')
        if name.endswith('.downsample.reduction.weight') or (  # or a norm of its inputs
                '.downsample.norm.' in name and reduction in state and value.shape[0] == state[reduction].shape[1]):
            order = unfold_order(value.shape[-1])
            value = value[..., order.argsort() if inverse else order]
        out[name] = value
    return out


LAYOUT = Layout(
    'mmpretrain',
    embedding='patch_embed.projection.weight',
    matches=lambda names, root: any_name(names, r'^patch_embed\.projection\.') and any_name(names, r'^stages\.'),
    names=Pairs(
        ('patch_embed.projection.{part}', 'patch_embed.proj.{part}'),
        *in_blocks(
            'stages.{stage}.blocks.{block}.',
            ('attn.w_msa.{rest}', 'attn.{rest}'),
            ('ffn.layers.0.0.{part}', 'mlp.fc1.{part}'),
            ('ffn.layers.1.{part}', 'mlp.fc2.{part}'),
            ('norm{norm}.{part}', 'norm{norm}.{part}')),
        ('stages.{stage+1}.downsample.{rest}', 'layers.{stage}.downsample.{rest}')),
    aliases=Pairs(('head.{part}', 'head.fc.{part}')),
    outside_root=Pairs(('head.fc.{part}', 'head.{part}')),
    rearrangements=(Rearrangement(partial(_reorder, inverse=False), partial(_reorder, inverse=True)),),
    root='backbone.',
    container='state_dict',
    each_norm=True,
    computes=('norm3',),
    buffers=window_buffers)
