"""What other projects' files of a SwinV2 look like, written out by hand from one set of weights in the release's names.

Nothing of the package is used: names and rearrangements are stated here a second time, in the direction from the
release to the other project, so that a converter's mistake cannot cancel itself.
"""
import math
import re

import torch


def coordinates(window, pretrained, log_spaced=True):
    """The release's table of coordinates, (1, 2W-1, 2W-1, 2), in float32."""
    t = torch.arange(1 - window, window, dtype=torch.float32) / (pretrained - 1)
    if log_spaced:
        t = torch.sign(t) * torch.log2(torch.abs(8 * t) + 1) / math.log2(8)
    return torch.stack(torch.meshgrid(t, t, indexing='ij'), -1)[None]


def blocks(depths):
    """(stage, block) of each block."""
    return [(i, j) for i, depth in enumerate(depths) for j in range(depth)]


def weights_only(state):
    """Without what this project adds to the release's names."""
    last = max(int(k[4]) for k in state if k.startswith('norm'))
    out = {k: v for k, v in state.items() if k != 'pretrained_window_sizes' and not k.startswith('norm')}
    for part in ('weight', 'bias'):
        out[f'norm.{part}'] = state[f'norm{last}.{part}']
    return out


def head(state):
    """A classifier of 10 classes after the last stage: weight (10, C), bias (10,)."""
    norm = weights_only(state)['norm.bias']
    bias = torch.arange(10, dtype=norm.dtype) - 3
    return dict(weight=bias[:, None] / 4 + norm, bias=bias)


def mask_token(state):
    """SimMIM's, (1, 1, C)."""
    return 1 + state['patch_embed.norm.bias'][None, None]


def microsoft(state, depths, windows=None, pretrained=None):
    """``{'model': ...}`` with a head and buffers; coordinates where ``windows`` are given."""
    out = weights_only(state)
    out.update({f'head.{part}': value for part, value in head(state).items()})
    for i, j in blocks(depths):
        stem = f'layers.{i}.blocks.{j}.'
        out[stem + 'attn.relative_position_index'] = torch.zeros(4, 4, dtype=torch.int64)
        if j % 2:
            out[stem + 'attn_mask'] = torch.zeros(4, 4, 4)
        if windows is not None:
            out[stem + 'attn.relative_coords_table'] = coordinates(windows[i], pretrained[i])
    return dict(model=out, max_accuracy=0., epoch=299)


def renamed(state, *pairs):
    """A state with its names changed: each pair is a pattern and what it becomes."""
    out = {}
    for name, value in state.items():
        for pattern, replacement in pairs:
            name = re.sub(pattern, replacement, name)
        out[name] = value
    return out


def simmim(state, depths, shared=False, encoder=True):
    """SimMIM pre-training: ``encoder.``, ``rpe_mlp``, ``enorm``; optionally one MLP of position bias per stage."""
    out = renamed(weights_only(state), (r'cpb_mlp', 'rpe_mlp'), (r'(blocks\.\d+)\.norm3', r'\1.enorm'))
    if shared:
        out = renamed({k: v for k, v in out.items() if 'rpe_mlp' not in k or '.blocks.0.' in k},
                      (r'blocks\.0\.attn\.rpe_mlp', 'rel_pos_bias.rpe_mlp'))
    if not encoder:
        return dict(model=out)
    out = renamed(out, ('^', 'encoder.'))
    out['encoder.mask_token'] = mask_token(state)
    out['decoder.0.weight'], out['decoder.0.bias'] = torch.zeros(8, 4, 1, 1), torch.zeros(8)
    return dict(model=out, epoch=799)


def timm(state, depths):
    """Each downsample belongs to the stage that it leads to."""
    out = renamed(weights_only(state), (r'layers\.(\d)\.downsample', lambda m: f'layers.{int(m[1]) + 1}.downsample'))
    return {**out, **renamed(head(state), ('^', 'head.fc.'))}


def transformers(state, depths, prefix='swinv2.'):
    """An image classifier's file: query, key and value apart."""
    s = weights_only(state)
    for name in [k for k in s if k.endswith('qkv.weight')]:
        for part, value in zip(('query', 'key', 'value'), s.pop(name).chunk(3)):
            s[name.replace('qkv', part)] = value
    out = renamed(
        s, ('^layers', 'encoder.layers'), ('^norm', 'layernorm'), ('^patch_embed.proj', 'patch_embed.projection'),
        ('^patch_embed.norm', 'embeddings.norm'), ('^patch_embed', 'embeddings.patch_embeddings'),
        ('attn.proj', 'attention.output.dense'), ('attn', 'attention.self'), ('q_bias', 'query.bias'),
        ('v_bias', 'value.bias'), ('cpb_mlp', 'continuous_position_bias_mlp'), (r'(\d)\.norm1', r'\1.layernorm_before'),
        (r'(\d)\.norm2', r'\1.layernorm_after'), ('mlp.fc1', 'intermediate.dense'), ('mlp.fc2', 'output.dense'),
        ('^', prefix))
    return {**out, **renamed(head(state), ('^', 'classifier.'))}


def torchvision(state, depths, windows=None):
    """``features.*``, one bias for query, key and value (that of keys is never used), flat index buffers."""
    s = weights_only(state)
    for i, j in blocks(depths):
        stem = f'layers.{i}.blocks.{j}.attn.'
        q, v = s.pop(stem + 'q_bias'), s.pop(stem + 'v_bias')
        s[stem + 'qkv.bias'] = torch.cat([q, torch.full_like(q, 7.), v])
        s[stem + 'relative_position_index'] = torch.zeros(16, dtype=torch.int64)
        if windows is not None:
            s[stem + 'relative_coords_table'] = coordinates(windows[i], windows[i])
    out = renamed(
        s, ('^patch_embed.proj', 'features.0.0'), ('^patch_embed.norm', 'features.0.2'), ('mlp.fc1', 'mlp.0'),
        ('mlp.fc2', 'mlp.3'), (r'^layers\.(\d)\.blocks', lambda m: f'features.{2 * int(m[1]) + 1}'),
        (r'^layers\.(\d)\.downsample', lambda m: f'features.{2 * int(m[1]) + 2}'))
    return {**out, **renamed(head(state), ('^', 'head.'))}


def unfold_order(weight):
    """The last axis of a merging weight or norm from the release's order to that of ``nn.Unfold``."""
    c = weight.shape[-1] // 4
    out = torch.empty_like(weight)
    for channel in range(c):
        for row in range(2):
            for column in range(2):
                out[..., channel * 4 + row * 2 + column] = weight[..., (column * 2 + row) * c + channel]
    return out


def mmpretrain(state, depths):
    """A classifier of OpenMMLab: ``stages``, merging for ``nn.Unfold`` at the start of a stage."""
    s = weights_only(state)
    for i in range(len(depths) - 1):
        inputs = s[f'layers.{i}.downsample.reduction.weight'].shape[1]
        for part in ('reduction.weight', 'norm.weight', 'norm.bias'):
            name = f'layers.{i}.downsample.{part}'
            s[name] = unfold_order(s[name]) if s[name].shape[-1] == inputs else s[name]
    for i, j in blocks(depths):
        s[f'layers.{i}.blocks.{j}.attn.relative_position_index'] = torch.zeros(4, 4)
    out = renamed(
        s, ('^patch_embed.proj', 'patch_embed.projection'), ('^norm', f'norm{len(depths) - 1}'),
        (r'^layers\.(\d)\.downsample', lambda m: f'stages.{int(m[1]) + 1}.downsample'), ('^layers', 'stages'),
        ('mlp.fc1', 'ffn.layers.0.0'), ('mlp.fc2', 'ffn.layers.1'), ('attn', 'attn.w_msa'), ('^', 'backbone.'))
    return dict(state_dict={**out, **renamed(head(state), ('^', 'head.fc.'))}, meta=dict(epoch=300))
