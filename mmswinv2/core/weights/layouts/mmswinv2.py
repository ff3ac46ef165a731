"""This project's own layout: the release's names, a norm per output, and the pre-training windows."""
from __future__ import annotations

from ...pretrained_windows import WINDOWS_KEY
from .base import Layout, Pairs, has_blocks

LAYOUT = Layout(
    'mmswinv2',
    embedding='patch_embed.proj.weight',
    matches=lambda names, root: has_blocks(names) and WINDOWS_KEY in names,
    aliases=Pairs(('head.fc.{part}', 'head.{part}')),
    extras=Pairs(('head.{part}', 'head.{part}'), ('mask_token', 'mask_token')),
    outside_root=Pairs(('head.fc.{part}', 'head.{part}')),  # of a classifier of mmpretrain
    container='state_dict',
    each_norm=True,
    says_windows=True,
    computes=('norm3', 'linear_cpb', 'parameterized', 'pre', 'video'))
