"""A layer of global self-attention on the last feature map, as a neck."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..core.checks import check_bool, check_int, hidden_channels
from ..core.layers import DropPath, LayerNorm, Mlp
from ..core.torch_compat import autocast_to, check_autocast_dtype
from ..registry import MODELS


@MODELS.register_module()
class GlobalAttention(BaseModule):
    """A transformer layer over all tokens of the last feature map; other maps pass as they are.

    HTC++ appends this layer to the backbone: ``neck=[dict(type='mmswinv2.GlobalAttention', dim=...),
    dict(type='FPN', ...)]``. Norms come first, and one follows: ``x += drop_path(attn(norm1(x)))``,
    ``x += drop_path(mlp(norm2(x)))``, ``norm3(x)``. There is no position bias. Where torch has a fused kernel,
    attention maps are never materialised.

    Args:
        dim: Channels of the last map.
        num_heads: A divisor of ``dim``.
        mlp_ratio: Hidden channels of the MLP over ``dim``.
        drop_path_rate: Stochastic depth, in [0, 1).
        with_cp: Activation checkpointing.
        autocast_dtype: ``'bfloat16'`` or ``'float16'``: mixed precision in this layer alone, as in the backbone.
            Weights and output keep their dtype.
        init_cfg: As for mmengine's ``BaseModule``.

    Raises:
        ValueError: if ``num_heads`` does not divide ``dim``, or an argument is out of range.

    Source:
        arXiv:2103.14030, appendix A2.2 (the layer; nothing more is said of it); heads, norms and rates as in the public
        HTC++ configuration of ViT-Adapter (czczup/ViT-Adapter, ``detection/configs/htc++``).
    """

    def __init__(self, dim: int, num_heads: int = 32, *, mlp_ratio: float = 4., drop_path_rate: float = .3,
                 with_cp: bool = False, autocast_dtype: str | None = None, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        dim = check_int('dim', dim, minimum=1)
        self.num_heads = check_int('num_heads', num_heads, minimum=1)
        if dim % self.num_heads:
            raise ValueError(f'num_heads must divide dim ({dim}), got {num_heads}')
        self.with_cp = check_bool('with_cp', with_cp)
        self.autocast_dtype = check_autocast_dtype(autocast_dtype)
        self.norm1 = LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, hidden_channels(dim, mlp_ratio))
        self.norm3 = LayerNorm(dim)
        self.drop_path = DropPath(drop_path_rate)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=.02)
                nn.init.zeros_(module.bias)

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Maps feature maps, the last of them (B, C, H, W), to feature maps of the same shapes."""
        x = inputs[-1]
        with autocast_to(x.device, self.autocast_dtype):
            if self.with_cp and torch.is_grad_enabled() and x.requires_grad:
                x = checkpoint(self._layer, x, use_reentrant=False)
            else:
                x = self._layer(x)
        return (*inputs[:-1], x)

    def _layer(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.flatten(2).mT  # (B, N, C)
        qkv = self.qkv(self.norm1(x)).view(b, h * w, 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, nH, N, d)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, c)
        x = x + self.drop_path(self.proj(out))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return self.norm3(x).mT.reshape(b, c, h, w)
