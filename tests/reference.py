"""A slow, plain Swin Transformer V2 in float64, written from the paper's formula and independent of the package.

It knows no windows as tensors: every token of a map belongs to one cell of the shifted grid, by its position alone, and
attends to the tokens of its cell, one cell after the other. Rolling, partition, cropping and the bookkeeping of masks,
where implementations go wrong, do not occur. Padding tokens exist only with ``mask_padding=False``. Weights come from a
state dict with the names of the Microsoft release.
"""
import itertools
import math

import torch


def relative_coordinate(offset, pretrained, kind):
    """One coordinate of the continuous position bias, as a Python float."""
    t = offset / max(pretrained - 1, 1)  # a pre-training window of 1 knew the offset 0 alone
    if kind == 'linear_cpb':
        return t
    return math.copysign(math.log2(1 + abs(8 * t)) / math.log2(8), t) if t else 0.


def flat(positions, extents):
    """Row-major index of each position, from a tensor (..., axes)."""
    index = torch.zeros_like(positions[..., 0])
    for axis, extent in enumerate(extents):
        index = index * extent + positions[..., axis]
    return index


def bias_table(state, prefix, pretrained, kind, window, sizes):
    """Bias of each head at each offset of a query from a key, in tokens, shape (nH, 2 size - 1 per axis).

    A window has ``sizes``, less than ``window`` along an axis where the map is; learnt tables are for ``window``.
    """
    offsets = list(itertools.product(*(range(1 - size, size) for size in sizes)))
    if kind == 'parameterized':
        places = torch.tensor(offsets) + torch.tensor(window) - 1
        rows = state[prefix + 'relative_position_bias_table'][flat(places, [2 * size - 1 for size in window])]
    else:
        weight = state[prefix + 'cpb_mlp.0.weight']
        coords = [[relative_coordinate(d, p, kind) for d, p in zip(offset, pretrained)] for offset in offsets]
        hidden = torch.tensor(coords, dtype=weight.dtype) @ weight.T + state[prefix + 'cpb_mlp.0.bias']
        hidden = hidden * (hidden > 0)
        rows = 16 / (1 + torch.exp(-(hidden @ state[prefix + 'cpb_mlp.2.weight'].T)))
    return rows.T.reshape(-1, *(2 * size - 1 for size in sizes))


def layer_norm(state, prefix, x):
    """LayerNorm over the last axis with eps 1e-5."""
    mean = x.mean(-1, keepdim=True)
    var = ((x - mean)**2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(var + 1e-5) * state[prefix + 'weight'] + state[prefix + 'bias']


def gelu(x):
    """The exact GELU."""
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def unit(x):
    """Rows divided by their length; a row of zeros stays zero."""
    squared = (x * x).sum(-1, keepdim=True)
    return torch.where(squared > 0, x / torch.sqrt(torch.where(squared > 0, squared, 1.)), 0.)


def cells_of(extents, window, shift):
    """The positions of the tokens of each cell of a grid of windows that is shifted by ``shift``."""
    cells = {}
    for position in itertools.product(*map(range, extents)):
        cell = tuple((p - moved) // size for p, moved, size in zip(position, shift, window))
        cells.setdefault(cell, []).append(position)
    return list(cells.values())


def window_attention(qkv, table, logit_scale, *, window, shift, padding=None):
    """Scaled cosine attention within the cells of the shifted grid, one cell after the other.

    Arguments and result have the shapes of :func:`mmswinv2.core.attention.window_attention`. ``padding`` is the query,
    key and value of tokens beyond the end of the map, up to whole windows; without it there are none.
    """
    b, *lengths, channels = qkv.shape
    num_heads, inside = table.shape[0], (slice(None), *map(slice, lengths))
    extents = lengths
    if padding is not None:
        extents = [math.ceil(length / size) * size for length, size in zip(lengths, window)]
        grid = padding.expand(b, *extents, channels).clone()
        grid[inside] = qkv
        qkv = grid
    q, k, v = (t.reshape(b, -1, num_heads, channels // 3 // num_heads).transpose(1, 2)
               for t in qkv.split(channels // 3, -1))
    q = unit(q) * torch.exp(torch.minimum(logit_scale, torch.tensor(math.log(100.), dtype=qkv.dtype)))
    k, rows = unit(k), table.flatten(1).T
    outs, order = [], []
    for tokens in cells_of(extents, window, shift):
        positions = torch.tensor(tokens)  # (n, axes)
        at = flat(positions, extents)
        offsets = positions[:, None] - positions + torch.tensor(window) - 1
        bias = rows[flat(offsets, table.shape[1:])]  # (n, n, nH)
        logits = q[:, :, at] @ k[:, :, at].transpose(-2, -1) + bias.permute(2, 0, 1)
        exp = torch.exp(logits - logits.max(-1, keepdim=True).values.detach())
        outs.append((exp @ v[:, :, at]) / exp.sum(-1, keepdim=True))
        order.append(at)
    out = torch.cat(outs, 2)[:, :, torch.cat(order).argsort()]
    return out.transpose(1, 2).reshape(b, *extents, channels // 3)[inside]


def attention(state, prefix, x, num_heads, window, pretrained, shifted, kind='log_cpb', mask_padding=True):
    """The module on a map (B, *map, C): projections, bias, attention; a window covers a map that is no larger."""
    sizes = [min(length, size) for length, size in zip(x.shape[1:-1], window, strict=True)]
    shift = [size // 2 if shifted and length > size else 0 for length, size in zip(x.shape[1:-1], window)]
    bias = torch.zeros(3 * x.shape[-1], dtype=x.dtype)
    if prefix + 'q_bias' in state:
        q_bias = state[prefix + 'q_bias']
        bias = torch.cat([q_bias, torch.zeros_like(q_bias), state[prefix + 'v_bias']])
    table = bias_table(state, prefix, pretrained, kind, window, sizes)
    assert table.shape[0] == num_heads
    out = window_attention(x @ state[prefix + 'qkv.weight'].T + bias, table, state[prefix + 'logit_scale'],
                           window=sizes, shift=shift, padding=None if mask_padding else bias)
    return out @ state[prefix + 'proj.weight'].T + state[prefix + 'proj.bias']


def mlp(state, prefix, x):
    """Two linear layers with a GELU between them."""
    hidden = gelu(x @ state[prefix + 'fc1.weight'].T + state[prefix + 'fc1.bias'])
    return hidden @ state[prefix + 'fc2.weight'].T + state[prefix + 'fc2.bias']


def block(state, prefix, x, num_heads, window, pretrained, shifted, placement='res_post', **options):
    """One block: residual post-norm, or norms before attention and MLP."""
    def attend(x):
        return attention(state, prefix + 'attn.', x, num_heads, window, pretrained, shifted, **options)

    if placement == 'pre':
        x = x + attend(layer_norm(state, prefix + 'norm1.', x))
        x = x + mlp(state, prefix + 'mlp.', layer_norm(state, prefix + 'norm2.', x))
    else:
        x = x + layer_norm(state, prefix + 'norm1.', attend(x))
        x = x + layer_norm(state, prefix + 'norm2.', mlp(state, prefix + 'mlp.', x))
    return layer_norm(state, prefix + 'norm3.', x) if prefix + 'norm3.weight' in state else x


def patch_embed(state, x):
    """Patches of 4 x 4 pixels, or of some frames of them, one by one."""
    b, channels, *lengths = x.shape
    weight = state['patch_embed.proj.weight']
    patch = weight.shape[2:]
    counts = [math.ceil(length / size) for length, size in zip(lengths, patch)]
    padded = torch.zeros(b, channels, *(n * size for n, size in zip(counts, patch)), dtype=x.dtype)
    padded[(slice(None), slice(None), *map(slice, lengths))] = x
    out = []
    for position in itertools.product(*map(range, counts)):
        part = padded[(slice(None), slice(None), *(slice(p * n, p * n + n) for p, n in zip(position, patch)))]
        out.append(part.reshape(b, -1) @ weight.flatten(1).T + state['patch_embed.proj.bias'])
    return layer_norm(state, 'patch_embed.norm.', torch.stack(out, 1).view(b, *counts, -1))


def merge(state, prefix, x, placement='res_post'):
    """Patch merging over the last two axes of a map; the norm after the reduction, or before it."""
    *before, h, w, c = x.shape
    rows, cols = math.ceil(h / 2), math.ceil(w / 2)
    padded = torch.zeros(*before, rows * 2, cols * 2, c, dtype=x.dtype)
    padded[..., :h, :w, :] = x
    four = [padded[..., 0::2, 0::2, :], padded[..., 1::2, 0::2, :], padded[..., 0::2, 1::2, :],
            padded[..., 1::2, 1::2, :]]
    x, weight = torch.cat(four, -1), state[prefix + 'reduction.weight']
    if placement == 'pre':
        return layer_norm(state, prefix + 'norm.', x) @ weight.T
    return layer_norm(state, prefix + 'norm.', x @ weight.T)


def backbone(state, x, *, depths, num_heads, windows, pretrained, out_indices=(0, 1, 2, 3), placement='res_post',
             **options):
    """The feature maps of an image or a clip, each (B, C_i, *map)."""
    x = patch_embed(state, x)
    outs = []
    for i, depth in enumerate(depths):
        for j in range(depth):
            x = block(state, f'layers.{i}.blocks.{j}.', x, num_heads[i], windows[i], pretrained[i], j % 2 == 1,
                      placement, **options)
        if i in out_indices:
            outs.append(layer_norm(state, f'norm{i}.', x).movedim(-1, 1))
        if i + 1 < len(depths):
            x = merge(state, f'layers.{i}.downsample.', x, placement)
    return outs
