"""The released formula of a SwinV2 block, written again from the paper and its description: what ours is measured by.

Roll, partition, a mask of nW x N x N, one attention map of B nW x nH x N x N, post-norm. Only map sizes that the window
divides. Nothing of the package is used, and nothing is optimised.

Source:
    arXiv:2111.09883, section 3; microsoft/Swin-Transformer, ``models/swin_transformer_v2.py`` (which tensors exist).
"""
import math

import torch
import torch.nn.functional as F
from torch import nn


class ReleasedBlock(nn.Module):
    """A block with the weight names of the release, for maps of (H, W) tokens."""

    def __init__(self, dim, num_heads, window, shift, size):
        super().__init__()
        self.window, self.shift, self.num_heads = window, shift, num_heads
        self.attn = nn.Module()
        self.attn.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10)))
        self.attn.cpb_mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, num_heads, bias=False))
        self.attn.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.attn.q_bias, self.attn.v_bias = (nn.Parameter(torch.zeros(dim)) for _ in range(2))
        self.attn.proj = nn.Linear(dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

        t = torch.arange(1 - window, window, dtype=torch.float32) * 8 / (window - 1)
        t = torch.sign(t) * torch.log2(t.abs() + 1) / 3
        coords = torch.stack(torch.meshgrid(t, t, indexing='ij'), -1)
        at = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing='ij')).flatten(1)
        offset = at[:, :, None] - at[:, None, :] + window - 1
        self.register_buffer('coords', coords.flatten(0, 1), persistent=False)
        self.register_buffer('index', (offset[0] * (2 * window - 1) + offset[1]).flatten(), persistent=False)
        mask = None
        if shift:
            region = torch.zeros(size)
            cuts = [slice(0, -window), slice(-window, -shift), slice(-shift, None)]
            for i, rows in enumerate(cuts):
                for j, cols in enumerate(cuts):
                    region[rows, cols] = 3 * i + j
            region = self.partition(region[None, :, :, None])[..., 0]  # (nW, N)
            mask = torch.where(region[:, None, :] != region[:, :, None], -100., 0.)
        self.register_buffer('mask', mask, persistent=False)

    def partition(self, x):
        """(B, H, W, C) to (B nW, N, C)."""
        b, h, w, c = x.shape
        n = self.window
        return x.view(b, h // n, n, w // n, n, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, n * n, c)

    def attention(self, x):
        """(B nW, N, C) to the same."""
        a, (b, n, c) = self.attn, x.shape
        qkv = F.linear(x, a.qkv.weight, torch.cat([a.q_bias, torch.zeros_like(a.v_bias), a.v_bias]))
        q, k, v = qkv.view(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        logits = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        logits = logits * a.logit_scale.clamp(max=math.log(100)).exp()
        bias = a.cpb_mlp(self.coords)[self.index].view(n, n, -1).permute(2, 0, 1).contiguous()
        logits = logits + 16 * torch.sigmoid(bias)[None]
        if self.mask is not None:
            windows = self.mask.shape[0]
            logits = logits.view(b // windows, windows, self.num_heads, n, n) + self.mask[None, :, None]
            logits = logits.view(b, self.num_heads, n, n)
        return a.proj((logits.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))

    def forward(self, x):
        """(B, H, W, C) to the same."""
        b, h, w, c = x.shape
        s, n = self.shift, self.window
        y = torch.roll(x, (-s, -s), (1, 2)) if s else x
        y = self.attention(self.partition(y))
        y = y.view(b, h // n, w // n, n, n, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        y = torch.roll(y, (s, s), (1, 2)) if s else y
        x = x + self.norm1(y)
        return x + self.norm2(self.mlp.fc2(F.gelu(self.mlp.fc1(x))))
