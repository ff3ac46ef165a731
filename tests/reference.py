"""A slow, plain Swin Transformer V2 in float64, written from the paper's formula and independent of the package.

It knows no windows as tensors: every token of a map attends to every other one through one dense matrix, in which a
pair is allowed when both tokens fall into the same cell of the shifted grid. Rolling, partition, cropping and the
bookkeeping of masks, where implementations go wrong, do not occur. Padding tokens exist only with
``mask_padding=False``. Weights come from a state dict with the names of the Microsoft release.
"""
import math

import torch


def relative_coordinate(offset, pretrained, kind):
    """One coordinate of the continuous position bias, as a Python float."""
    t = offset / (pretrained - 1)
    if kind == 'linear_cpb':
        return t
    return math.copysign(math.log2(1 + abs(8 * t)) / math.log2(8), t) if t else 0.


def bias_at(state, prefix, dh, dw, pretrained, kind, window):
    """Bias of each head at an offset of (dh, dw) tokens, shape (nH,)."""
    if kind == 'parameterized':
        row = (dh + window[0] - 1) * (2 * window[1] - 1) + dw + window[1] - 1
        return state[prefix + 'relative_position_bias_table'][row]
    coords = torch.tensor([relative_coordinate(dh, pretrained[0], kind), relative_coordinate(dw, pretrained[1], kind)],
                          dtype=torch.float64)
    hidden = state[prefix + 'cpb_mlp.0.weight'] @ coords + state[prefix + 'cpb_mlp.0.bias']
    hidden = hidden * (hidden > 0)
    return 16 / (1 + torch.exp(-(state[prefix + 'cpb_mlp.2.weight'] @ hidden)))


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
    """Window attention of a map (B, H, W, C) by one dense matrix over all tokens of the map."""
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

    tokens = [(i, j) for i in range(extents[0]) for j in range(extents[1])]
    cells = [((i - shifts[0]) // sizes[0], (j - shifts[1]) // sizes[1]) for i, j in tokens]
    offsets = {}
    bias = torch.zeros(len(tokens), len(tokens), num_heads, dtype=x.dtype)
    allowed = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    rows, cols, values = [], [], []
    for m, (i, j) in enumerate(tokens):
        for n, (p, r) in enumerate(tokens):
            if cells[m] == cells[n]:
                allowed[m, n] = True
                offset = (i - p, j - r)
                if offset not in offsets:
                    offsets[offset] = bias_at(state, prefix, *offset, pretrained, kind, window)
                rows.append(m)
                cols.append(n)
                values.append(offsets[offset])
    bias = bias.index_put((torch.tensor(rows), torch.tensor(cols)), torch.stack(values)).permute(2, 0, 1)
    scale = torch.exp(torch.minimum(state[prefix + 'logit_scale'], torch.tensor(math.log(100.), dtype=x.dtype)))
    logits = unit(q) @ unit(k).transpose(-2, -1) * scale + bias
    logits = torch.where(allowed, logits, -math.inf)
    exp = torch.exp(logits - logits.max(-1, keepdim=True).values.detach())
    out = (exp / exp.sum(-1, keepdim=True)) @ v
    out = out.transpose(1, 2).reshape(b, *extents, c)[:, :h, :w]
    return out @ state[prefix + 'proj.weight'].T + state[prefix + 'proj.bias']


def block(state, prefix, x, num_heads, window, pretrained, shifted, **options):
    """One residual post-norm block."""
    x = x + layer_norm(state, prefix + 'norm1.',
                       attention(state, prefix + 'attn.', x, num_heads, window, pretrained, shifted, **options))
    hidden = gelu(x @ state[prefix + 'mlp.fc1.weight'].T + state[prefix + 'mlp.fc1.bias'])
    x = x + layer_norm(state, prefix + 'norm2.', hidden @ state[prefix + 'mlp.fc2.weight'].T +
                       state[prefix + 'mlp.fc2.bias'])
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


def merge(state, prefix, x):
    """Patch merging, token by token."""
    b, h, w, c = x.shape
    rows, cols = math.ceil(h / 2), math.ceil(w / 2)
    padded = torch.zeros(b, rows * 2, cols * 2, c, dtype=x.dtype)
    padded[:, :h, :w] = x
    four = [padded[:, 0::2, 0::2], padded[:, 1::2, 0::2], padded[:, 0::2, 1::2], padded[:, 1::2, 1::2]]
    return layer_norm(state, prefix + 'norm.', torch.cat(four, -1) @ state[prefix + 'reduction.weight'].T)


def backbone(state, x, *, depths, num_heads, windows, pretrained, out_indices=(0, 1, 2, 3), **options):
    """The feature maps of an image, each (B, C_i, H_i, W_i)."""
    x = patch_embed(state, x)
    outs = []
    for i, depth in enumerate(depths):
        for j in range(depth):
            x = block(state, f'layers.{i}.blocks.{j}.', x, num_heads[i], windows[i], pretrained[i], j % 2 == 1,
                      **options)
        if i in out_indices:
            outs.append(layer_norm(state, f'norm{i}.', x).permute(0, 3, 1, 2))
        if i + 1 < len(depths):
            x = merge(state, f'layers.{i}.downsample.', x)
    return outs
