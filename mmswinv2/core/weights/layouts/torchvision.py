"""torchvision's ``swin_v2_*``: a list of features, and one bias for query, key and value, of which the key's is unused.

Source (names and buffers):
    pytorch/vision 0.28, ``models/swin_transformer.py``.
"""
from __future__ import annotations

from torch import Tensor

from ...checks import as_configured
from .base import Layout, Pairs, any_name, in_blocks, splitting
from .buffers import Geometry, window_buffers


def buffers(shape: Geometry) -> dict[str, Tensor]:
    """Coordinates, normalised by the window itself, and torchvision's flat index.

    Raises:
        ValueError: if the pre-training windows differ: torchvision has one window, for which coordinates are made.
    """
    if len(set(shape.pretrained)) > 1:
        raise ValueError('pretrained_window_sizes must be the same in all stages for torchvision, got '
                         f'{as_configured(shape.pretrained)}')
    return {k: v.flatten() if k.endswith('index') else v for k, v in window_buffers(shape).items()}


LAYOUT = Layout(
    'torchvision',
    embedding='features.0.0.weight',
    matches=lambda names, root: any_name(names, r'^features\.0\.0\.') and any_name(names, r'\.logit_scale$'),
    names=Pairs(
        ('features.0.0.{part}', 'patch_embed.proj.{part}'),
        ('features.0.2.{part}', 'patch_embed.norm.{part}'),
        *in_blocks(
            'features.{2*stage+1}.{block}.',
            ('mlp.0.{part}', 'mlp.fc1.{part}'),
            ('mlp.3.{part}', 'mlp.fc2.{part}'),
            ('{rest}', '{rest}')),
        ('features.{2*stage+2}.{rest}', 'layers.{stage}.downsample.{rest}')),
    aliases=Pairs(('head.fc.{part}', 'head.{part}')),
    extras=Pairs(('head.{part}', 'head.{part}')),
    rearrangements=(splitting('biases of query and value', '.attn.qkv.bias', ('.attn.q_bias', None, '.attn.v_bias')),),
    buffers=buffers)
