"""SimMIM pre-training and the authors' dense code: an encoder, ``rpe_mlp`` and ``enorm``.

Source (names):
    microsoft/Swin-Transformer, ``models/simmim.py``, ``utils_simmim.py``; SwinTransformer/AiT and
    Feature-Distillation (``rpe_mlp``, ``enorm``, ``rel_pos_bias``).
"""
from __future__ import annotations

import re

from torch import Tensor

from .base import Layout, Pairs, Rearrangement, any_name, has_blocks, in_blocks
from .buffers import Geometry, window_buffers

SHARED = re.compile(r'layers\.(\d)\.rel_pos_bias\.(cpb_mlp\..*)')


def share_bias(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gives each block of a stage its own copy of the position bias MLP that the blocks share in the file.

    The inverse keeps the copies: files with one MLP per block are of this layout too.
    """
    out = {}
    for name, value in state.items():
        match = SHARED.fullmatch(name)
        if match is None:
            out[name] = value
            continue
        for block in sorted({k.split('.')[3] for k in state if k.startswith(f'layers.{match[1]}.blocks.')}, key=int):
            out[f'layers.{match[1]}.blocks.{block}.attn.{match[2]}'] = value.clone()
    return out


def buffers(shape: Geometry) -> dict[str, Tensor]:
    """Coordinates only: they show the pre-training windows and the kind of position bias."""
    return {k: v for k, v in window_buffers(shape).items() if k.endswith('relative_coords_table')}


BLOCK = 'layers.{stage}.blocks.{block}.'
LAYOUT = Layout(
    'simmim',
    embedding='patch_embed.proj.weight',
    matches=lambda names, root: has_blocks(names) and (
        f'.{root}'.endswith('.encoder.') or 'mask_token' in names or any_name(names, r'\.(rpe_mlp|enorm)\.')),
    names=Pairs(
        *in_blocks(BLOCK, ('attn.rpe_mlp.{rest}', 'attn.cpb_mlp.{rest}'), ('enorm.{part}', 'norm3.{part}')),
        ('layers.{stage}.rel_pos_bias.rpe_mlp.{rest}', 'layers.{stage}.rel_pos_bias.cpb_mlp.{rest}')),
    aliases=Pairs(
        (BLOCK + 'attn.cpb_mlp.{rest}', BLOCK + 'attn.rpe_mlp.{rest}'),
        (BLOCK + 'norm3.{part}', BLOCK + 'enorm.{part}'),
        ('layers.{stage}.rel_pos_bias.cpb_mlp.{rest}', 'layers.{stage}.rel_pos_bias.rpe_mlp.{rest}'),
        ('head.fc.{part}', 'head.{part}')),
    extras=Pairs(('head.{part}', 'head.{part}'), ('mask_token', 'mask_token')),
    rearrangements=(Rearrangement(share_bias, dict),),
    root='encoder.',
    container='model',
    computes=('norm3', 'linear_cpb', 'pre'),
    buffers=buffers)
