"""What other projects' files of a SwinV2 look like, written out by hand from one set of weights in the release's names.

Nothing of the package is used: names and rearrangements are stated here a second time, in the direction from the
release to the other project, so that a converter's mistake cannot cancel itself.
"""
import math

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


def simmim(state, depths, shared=False, encoder=True):
    """SimMIM pre-training: ``encoder.``, ``rpe_mlp``, ``enorm``; optionally one MLP of position bias per stage."""
    out = {}
    for name, value in weights_only(state).items():
        parts = name.split('.')
        if 'cpb_mlp' in parts:
            rest = '.'.join(parts[parts.index('cpb_mlp') + 1:])
            if shared:
                if parts[3] == '0':
                    out[f'layers.{parts[1]}.rel_pos_bias.rpe_mlp.{rest}'] = value
                continue
            name = f'layers.{parts[1]}.blocks.{parts[3]}.attn.rpe_mlp.{rest}'
        elif len(parts) == 6 and parts[4] == 'norm3':
            name = f'layers.{parts[1]}.blocks.{parts[3]}.enorm.{parts[5]}'
        out[name] = value
    if not encoder:
        return dict(model=out)
    out = {f'encoder.{k}': v for k, v in out.items()}
    out['encoder.mask_token'] = mask_token(state)
    out['decoder.0.weight'], out['decoder.0.bias'] = torch.zeros(8, 4, 1, 1), torch.zeros(8)
    return dict(model=out, epoch=799)


def timm(state, depths):
    """Each downsample belongs to the stage that it leads to."""
    out = {}
    for name, value in weights_only(state).items():
        for i in range(len(depths)):
            if name.startswith(f'layers.{i}.downsample.'):
                name = f'layers.{i + 1}.downsample.' + name[len('layers.0.downsample.'):]
                break
        out[name] = value
    out.update({f'head.fc.{part}': value for part, value in head(state).items()})
    return out


def transformers(state, depths, prefix='swinv2.'):
    """An image classifier's file: query, key and value apart."""
    s = weights_only(state)
    out = {}
    for part in ('weight', 'bias'):
        out[f'embeddings.patch_embeddings.projection.{part}'] = s[f'patch_embed.proj.{part}']
        out[f'embeddings.norm.{part}'] = s[f'patch_embed.norm.{part}']
        out[f'layernorm.{part}'] = s[f'norm.{part}']
    for i, j in blocks(depths):
        a, b = f'layers.{i}.blocks.{j}.', f'encoder.layers.{i}.blocks.{j}.'
        c = s[a + 'attn.proj.bias'].shape[0]
        for n, part in enumerate(('query', 'key', 'value')):
            out[f'{b}attention.self.{part}.weight'] = s[a + 'attn.qkv.weight'][n * c:(n + 1) * c]
        out[b + 'attention.self.query.bias'] = s[a + 'attn.q_bias']
        out[b + 'attention.self.value.bias'] = s[a + 'attn.v_bias']
        out[b + 'attention.self.logit_scale'] = s[a + 'attn.logit_scale']
        for part in ('0.weight', '0.bias', '2.weight'):
            out[f'{b}attention.self.continuous_position_bias_mlp.{part}'] = s[f'{a}attn.cpb_mlp.{part}']
        for theirs, ours in (('attention.output.dense', 'attn.proj'), ('layernorm_before', 'norm1'),
                             ('intermediate.dense', 'mlp.fc1'), ('output.dense', 'mlp.fc2'),
                             ('layernorm_after', 'norm2')):
            for part in ('weight', 'bias'):
                out[f'{b}{theirs}.{part}'] = s[f'{a}{ours}.{part}']
    for i in range(len(depths) - 1):
        for part in ('reduction.weight', 'norm.weight', 'norm.bias'):
            out[f'encoder.layers.{i}.downsample.{part}'] = s[f'layers.{i}.downsample.{part}']
    out = {prefix + k: v for k, v in out.items()}
    out.update({f'classifier.{part}': value for part, value in head(state).items()})
    return out


def torchvision(state, depths, windows=None):
    """``features.*``, one bias for query, key and value (that of keys is never used), flat index buffers."""
    s = weights_only(state)
    out = {}
    for part in ('weight', 'bias'):
        out[f'features.0.0.{part}'] = s[f'patch_embed.proj.{part}']
        out[f'features.0.2.{part}'] = s[f'patch_embed.norm.{part}']
        out[f'norm.{part}'] = s[f'norm.{part}']
        out[f'head.{part}'] = head(state)[part]
    for i, j in blocks(depths):
        a, b = f'layers.{i}.blocks.{j}.', f'features.{2 * i + 1}.{j}.'
        for part in ('attn.logit_scale', 'attn.qkv.weight', 'attn.proj.weight', 'attn.proj.bias',
                     'attn.cpb_mlp.0.weight', 'attn.cpb_mlp.0.bias', 'attn.cpb_mlp.2.weight', 'norm1.weight',
                     'norm1.bias', 'norm2.weight', 'norm2.bias'):
            out[b + part] = s[a + part]
        c = s[a + 'attn.q_bias'].shape[0]
        out[b + 'attn.qkv.bias'] = torch.cat([s[a + 'attn.q_bias'], torch.full((c,), 7.), s[a + 'attn.v_bias']])
        for part in ('weight', 'bias'):
            out[f'{b}mlp.0.{part}'] = s[f'{a}mlp.fc1.{part}']
            out[f'{b}mlp.3.{part}'] = s[f'{a}mlp.fc2.{part}']
        out[b + 'attn.relative_position_index'] = torch.zeros(16, dtype=torch.int64)
        if windows is not None:
            out[b + 'attn.relative_coords_table'] = coordinates(windows[i], windows[i])
    for i in range(len(depths) - 1):
        for part in ('reduction.weight', 'norm.weight', 'norm.bias'):
            out[f'features.{2 * i + 2}.{part}'] = s[f'layers.{i}.downsample.{part}']
    return out


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
    out = {}
    for name, value in weights_only(state).items():
        parts = name.split('.')
        if name.startswith('patch_embed.proj.'):
            name = f'patch_embed.projection.{parts[-1]}'
        elif len(parts) > 2 and parts[2] == 'downsample':
            if parts[3] == 'reduction' or value.shape[0] == state[f'layers.{parts[1]}.downsample.reduction.weight'
                                                                  ].shape[1]:
                value = unfold_order(value)
            name = f'stages.{int(parts[1]) + 1}.downsample.{".".join(parts[3:])}'
        elif parts[0] == 'layers':
            rest = '.'.join(parts[4:])
            rest = rest.replace('mlp.fc1', 'ffn.layers.0.0').replace('mlp.fc2', 'ffn.layers.1')
            rest = rest.replace('attn.', 'attn.w_msa.')
            name = f'stages.{parts[1]}.blocks.{parts[3]}.{rest}'
        elif parts[0] == 'norm':
            name = f'norm{len(depths) - 1}.{parts[1]}'
        out[f'backbone.{name}'] = value
    for i, j in blocks(depths):
        out[f'backbone.stages.{i}.blocks.{j}.attn.w_msa.relative_position_index'] = torch.zeros(4, 4)
    out.update({f'head.fc.{part}': value for part, value in head(state).items()})
    return dict(state_dict=out, meta=dict(epoch=300))
