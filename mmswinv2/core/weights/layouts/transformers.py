"""transformers' ``swinv2``: query, key and value are separate; norms are named after their place in Swin V1.

Source (names):
    huggingface/transformers 5.23, ``models/swinv2``.
"""
from __future__ import annotations

from .base import Layout, Pairs, any_name, in_blocks, splitting

LAYOUT = Layout(
    'transformers',
    embedding='embeddings.patch_embeddings.projection.weight',
    matches=lambda names, root: any_name(names, r'^embeddings\.patch_embeddings\.'),
    names=Pairs(
        ('embeddings.patch_embeddings.projection.{part}', 'patch_embed.proj.{part}'),
        ('embeddings.norm.{part}', 'patch_embed.norm.{part}'),
        ('encoder.layers.{stage}.downsample.{rest}', 'layers.{stage}.downsample.{rest}'),
        *in_blocks(
            'encoder.layers.{stage}.blocks.{block}.',
            ('attention.self.query.bias', 'attn.q_bias'),
            ('attention.self.value.bias', 'attn.v_bias'),
            ('attention.self.continuous_position_bias_mlp.{rest}', 'attn.cpb_mlp.{rest}'),
            ('attention.output.dense.{part}', 'attn.proj.{part}'),
            ('attention.self.{rest}', 'attn.{rest}'),
            ('layernorm_before.{part}', 'norm1.{part}'),  # before the MLP, after attention
            ('layernorm_after.{part}', 'norm2.{part}'),
            ('intermediate.dense.{part}', 'mlp.fc1.{part}'),
            ('output.dense.{part}', 'mlp.fc2.{part}')),
        ('layernorm.{part}', 'norm.{part}')),
    extras=Pairs(('embeddings.mask_token', 'mask_token')),
    outside_root=Pairs(('classifier.{part}', 'head.{part}')),
    rearrangements=(splitting('query, key and value weights', '.attn.qkv.weight',
                     ('.attn.query.weight', '.attn.key.weight', '.attn.value.weight')).inverse,),
    root_in_model='swinv2.')
