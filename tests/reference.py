"""A slow, plain Swin Transformer V2 in float64, written from the paper's formula and independent of the package.

It knows no windows as tensors: every token of a map belongs to one cell of the shifted grid, by its position alone, and
attends to the tokens of its cell, one cell after the other. Rolling, partition, cropping and the bookkeeping of masks,
where implementations go wrong, do not occur. Padding tokens exist only with ``mask_padding=False``. Weights come from a
state dict with the names of the Microsoft release.
"""
import math

import torch


def relative_coordinate(offset, pretrained, kind):
    """One coordinate of the continuous position bias, as a Python float."""
    t = offset / (pretrained - 1)
    if kind == 'linear_cpb':
        return t
    return math.copysign(math.log2(1 + abs(8 * t)) / math.log2(8), t) if t else 0.


def bias_of_offsets(state, prefix, offsets, pretrained, kind, window):
    """Bias of each head at offsets (dh, dw) of a query from a key in tokens, shape (len(offsets), nH)."""
    if kind == 'parameterized':
        rows = [(dh + window[0] - 1) * (2 * window[1] - 1) + dw + window[1] - 1 for dh, dw in offsets]
        return state[prefix + 'relative_position_bias_table'][rows]
    weight = state[prefix + 'cpb_mlp.0.weight']
    coords = torch.tensor([[relative_coordinate(dh, pretrained[0], kind), relative_coordinate(dw, pretrained[1], kind)]
                           for dh, dw in offsets], dtype=weight.dtype)
    hidden = coords @ weight.T + state[prefix + 'cpb_mlp.0.bias']
    hidden = hidden * (hidden > 0)
    return 16 / (1 + torch.exp(-(hidden @ state[prefix + 'cpb_mlp.2.weight'].T)))


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


def attention(state, prefix, x, num_heads, window, pretrained, shifted, kind='log_cpb', mask_padding=True):
    """Window attention of a map (B, H, W, C), cell by cell of the shifted grid."""
    b, h, w, c = x.shape
    sizes, shifts, extents = [], [], []
    for length, size in zip((h, w), window):
        if length <= size:
            sizes.append(length)
            shifts.append(0)
        else:
            sizes.append(size)
            shifts.append(size // 2 if shifted else 0)
        whole = math.ceil(length / sizes[-1]) * sizes[-1]
        extents.append(length if mask_padding else whole)
    grid = torch.zeros(b, *extents, c, dtype=x.dtype)
    grid[:, :h, :w] = x

    weight = state[prefix + 'qkv.weight']
    qkv = grid.reshape(b, -1, c) @ weight.T
    if prefix + 'q_bias' in state:
        qkv = qkv + torch.cat([state[prefix + 'q_bias'], torch.zeros(c, dtype=x.dtype), state[prefix + 'v_bias']])
    q, k, v = (t.reshape(b, -1, num_heads, c // num_heads).transpose(1, 2) for t in qkv.split(c, -1))
    scale = torch.exp(torch.minimum(state[prefix + 'logit_scale'], torch.tensor(math.log(100.), dtype=x.dtype)))
    q, k = unit(q) * scale, unit(k)

    spread = [range(1 - size, size) for size in sizes]
    offsets = [(dh, dw) for dh in spread[0] for dw in spread[1]]
    bias = bias_of_offsets(state, prefix, offsets, pretrained, kind, window)  # (offsets, nH)
    cells = {}
    for i in range(extents[0]):
        for j in range(extents[1]):
            cells.setdefault(((i - shifts[0]) // sizes[0], (j - shifts[1]) // sizes[1]), []).append((i, j))
    outs, order = [], []
    for tokens in cells.values():
        rows, cols = (torch.tensor(t) for t in zip(*tokens))
        at = rows * extents[1] + cols
        which = (rows[:, None] - rows + sizes[0] - 1) * len(spread[1]) + cols[:, None] - cols + sizes[1] - 1
        logits = q[:, :, at] @ k[:, :, at].transpose(-2, -1) + bias[which].permute(2, 0, 1)
        exp = torch.exp(logits - logits.max(-1, keepdim=True).values.detach())
        outs.append((exp @ v[:, :, at]) / exp.sum(-1, keepdim=True))
        order.append(at)
    out = torch.cat(outs, 2)[:, :, torch.cat(order).argsort()]
    out = out.transpose(1, 2).reshape(b, *extents, c)[:, :h, :w]
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
    """Patches of 4 x 4 pixels, one by one."""
    b, channels, h, w = x.shape
    rows, cols = math.ceil(h / 4), math.ceil(w / 4)
    padded = torch.zeros(b, channels, rows * 4, cols * 4, dtype=x.dtype)
    padded[:, :, :h, :w] = x
    weight = state['patch_embed.proj.weight'].flatten(1)
    out = [[padded[:, :, 4 * i:4 * i + 4, 4 * j:4 * j + 4].reshape(b, -1) @ weight.T +
            state['patch_embed.proj.bias'] for j in range(cols)] for i in range(rows)]
    out = torch.stack([torch.stack(row, 1) for row in out], 1)
    return layer_norm(state, 'patch_embed.norm.', out)


def merge(state, prefix, x, placement='res_post'):
    """Patch merging; the norm after the reduction, or before it."""
    b, h, w, c = x.shape
    rows, cols = math.ceil(h / 2), math.ceil(w / 2)
    padded = torch.zeros(b, rows * 2, cols * 2, c, dtype=x.dtype)
    padded[:, :h, :w] = x
    four = [padded[:, 0::2, 0::2], padded[:, 1::2, 0::2], padded[:, 0::2, 1::2], padded[:, 1::2, 1::2]]
    x, weight = torch.cat(four, -1), state[prefix + 'reduction.weight']
    if placement == 'pre':
        return layer_norm(state, prefix + 'norm.', x) @ weight.T
    return layer_norm(state, prefix + 'norm.', x @ weight.T)


def backbone(state, x, *, depths, num_heads, windows, pretrained, out_indices=(0, 1, 2, 3), placement='res_post',
             **options):
    """The feature maps of an image, each (B, C_i, H_i, W_i)."""
    x = patch_embed(state, x)
    outs = []
    for i, depth in enumerate(depths):
        for j in range(depth):
            x = block(state, f'layers.{i}.blocks.{j}.', x, num_heads[i], windows[i], pretrained[i], j % 2 == 1,
                      placement, **options)
        if i in out_indices:
            outs.append(layer_norm(state, f'norm{i}.', x).permute(0, 3, 1, 2))
        if i + 1 < len(depths):
            x = merge(state, f'layers.{i}.downsample.', x, placement)
    return outs
