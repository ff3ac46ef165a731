"""The module of window attention: its weights, and the arguments of a call made from them."""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..grid import Axis, Grid, lengths_of
from ..layers import dropout
from ..position_bias import ContinuousBias, crop, from_rows, table_rows
from ..torch_compat import is_plain_linear
from .backends import attend, default_budget
from .config import AttentionConfig


class WindowAttention(nn.Module):
    """Multi-head scaled cosine attention within windows, with a relative position bias.

    Args:
        dim: C.
        num_heads: nH, a divisor of C.
        window_size: Tokens along each axis.
        pretrained_window: P, tokens along each axis; normalises the coordinates of a continuous bias.
        config: How windows attend.
    """

    def __init__(self, dim: int, num_heads: int, *, window_size: Sequence[int], pretrained_window: Sequence[int],
                 config: AttentionConfig) -> None:
        super().__init__()
        self.window_size = tuple(window_size)
        self.pretrained_window = tuple(pretrained_window)
        self.config, self.budget = config, config.budget
        self.logit_scale = nn.Parameter(torch.empty(num_heads, 1, 1))
        if config.position_bias == 'parameterized':
            self.relative_position_bias_table = nn.Parameter(torch.empty(table_rows(self.window_size), num_heads))
        else:
            self.cpb_mlp = ContinuousBias(num_heads, axes=len(self.window_size),
                                          log_spaced=config.position_bias == 'log_cpb')
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.empty(dim)) if config.qkv_bias else None
        self.v_bias = nn.Parameter(torch.empty(dim)) if config.qkv_bias else None
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = dropout(config.drop_rate)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises the parameters that belong to no layer inside: a scale of 10, biases of zero."""
        nn.init.constant_(self.logit_scale, math.log(10))
        if self.config.position_bias == 'parameterized':
            nn.init.zeros_(self.relative_position_bias_table)
        if self.q_bias is not None:
            nn.init.zeros_(self.q_bias)
        if self.v_bias is not None:
            nn.init.zeros_(self.v_bias)

    def bias_table(self, window: Sequence[int]) -> Tensor:
        """The bias table of a window no larger than ``window_size``: (nH, 2W-1, ...)."""
        if self.config.position_bias != 'parameterized':
            scale = self.logit_scale
            return self.cpb_mlp(window, self.pretrained_window, dtype=torch.promote_types(scale.dtype, torch.float32),
                                device=scale.device, budget=self._budget(scale.device))
        return crop(from_rows(self.relative_position_bias_table, self.window_size), window)

    def _budget(self, device: torch.device) -> int:
        return default_budget(device) if self.budget is None else self.budget

    def grid(self, lengths: Sequence[int], *, shifted: bool) -> Grid:
        """The windows over a map of ``lengths`` tokens along each axis."""
        balanced = self.config.window_fit == 'balanced'
        return tuple(Axis.fit(length, window, shifted=shifted, balanced=balanced)
                     for length, window in zip(lengths, self.window_size))

    def _bias(self) -> Tensor | None:
        """The bias of queries, keys (zero) and values, (3C,)."""
        if self.q_bias is None or self.v_bias is None:
            return None
        return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])

    def project(self, x: Tensor) -> Tensor:
        """Maps (B, *map, C) to queries, keys and values with their bias, (B, *map, 3C).

        A layer that is torch's own, without hooks, adds the bias within its product. What takes its place is called.
        """
        bias = self._bias()
        if bias is not None and is_plain_linear(self.qkv):
            return F.linear(x, self.qkv.weight, bias)
        qkv = self.qkv(x)
        return qkv if bias is None else qkv + bias.to(qkv.dtype)

    def forward(self, x: Tensor, *, shifted: bool = False) -> Tensor:
        """Attends within windows.

        Args:
            x: Map, shape (B, *map, C).
            shifted: Whether windows are shifted by half their size (where the map holds more than one).

        Returns:
            Shape (B, *map, C).
        """
        config, grid = self.config, self.grid(lengths_of(x), shifted=shifted)
        padding = None
        if not config.mask_padding:  # what the projection makes of a token of zeros
            bias = self._bias()
            padding = x.new_zeros(3 * x.shape[-1]) if bias is None else bias
        table = self.bias_table([axis.window for axis in grid])
        x = attend(  # of a temporary, which is gone before the projection
            self.project(x), table, self.logit_scale, grid, padding=padding, backend=config.attn_backend,
            budget=self._budget(x.device), dropout=config.attn_drop_rate if self.training else 0.)
        return self.proj_drop(self.proj(x))
