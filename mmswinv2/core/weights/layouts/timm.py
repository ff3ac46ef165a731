"""timm's ``swinv2_*`` (not ``swinv2_cr_*``, another model): a downsample belongs to the stage that it leads to.

Source (names):
    huggingface/pytorch-image-models 1.0.31, ``swin_transformer_v2.py``.
"""
from __future__ import annotations

from .base import Layout, Pairs, any_name, has_blocks

LAYOUT = Layout(
    'timm',
    embedding='patch_embed.proj.weight',
    matches=lambda names, root: (has_blocks(names) and any_name(names, r'^layers\.1\.downsample\.')
                              and not any_name(names, r'^layers\.0\.downsample\.')),
    names=Pairs(('layers.{stage+1}.downsample.{rest}', 'layers.{stage}.downsample.{rest}')),
    aliases=Pairs(('head.{part}', 'head.fc.{part}')),  # before timm 0.9
    extras=Pairs(('head.fc.{part}', 'head.{part}')))
