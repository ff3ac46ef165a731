"""Swin Transformer V2 as a backbone for dense prediction: block, stage, backbone.

Legend: B images, H W tokens, C channels, windows in tokens, stage strides s_i = 4, 8, 16, 32 pixels.

Source:
    arXiv:2111.09883; numbers and names of weights: microsoft/Swin-Transformer, ``models/swin_transformer_v2.py``;
    the extra norm and the norm of each output: SwinTransformer/MIM-Depth-Estimation,
    ``models/swin_transformer_v2.py``.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from .arch import get_arch
from .attention import WindowAttention
from .checks import (
    Pair,
    check_bool,
    check_int,
    check_rate,
    hidden_channels,
    is_int,
    is_list,
    to_flags,
    to_windows,
)
from .layers import DropPath, LayerNorm, Mlp, PatchEmbed, PatchMerging
from .position_bias import resize_table, table_rows, table_window
from .weights.windows import WINDOWS_KEY, check_configured, nobody_says, said_windows, windows_tensor

MIN_IMAGE_SIZE = 32  # pixels, the stride of the last stage
NORM_PLACEMENTS = ('res_post', 'pre')


class SwinBlock(nn.Module):
    """A block: ``x + drop_path(norm(f(x)))`` for window attention, then for the MLP.

    Args:
        dim: C.
        shifted: Whether the windows are shifted by half their size.
        norm_first: ``x + drop_path(f(norm(x)))`` instead.
        mlp_ratio: Hidden channels of the MLP as a multiple of C.
        drop_rate: Dropout in the MLP and after the projection of attention, in [0, 1).
        drop_path_rate: Probability to drop a branch, in [0, 1).
        extra_norm: Whether a LayerNorm on the main branch ends the block.
        attention: Further arguments of :class:`~mmswinv2.core.attention.WindowAttention`.
    """

    def __init__(self, dim: int, *, shifted: bool, norm_first: bool, mlp_ratio: float, drop_rate: float,
                 drop_path_rate: float, extra_norm: bool, attention: Mapping) -> None:
        super().__init__()
        self.shifted = shifted
        self.norm_first = norm_first
        self.attn = WindowAttention(dim, drop_rate=drop_rate, **attention)
        self.norm1 = LayerNorm(dim)
        self.mlp = Mlp(dim, hidden_channels(dim, mlp_ratio), drop_rate=drop_rate)
        self.norm2 = LayerNorm(dim)
        self.drop_path = DropPath(drop_path_rate)
        self.norm3 = LayerNorm(dim) if extra_norm else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, H, W, C) to (B, H, W, C)."""
        if self.norm_first:
            x = x + self.drop_path(self.attn(self.norm1(x), shifted=self.shifted))
            x = x + self.drop_path(self.mlp(self.norm2(x)))
        else:
            x = x + self.drop_path(self.norm1(self.attn(x, shifted=self.shifted)))
            x = x + self.drop_path(self.norm2(self.mlp(x)))
        return x if self.norm3 is None else self.norm3(x)


class SwinStage(nn.Module):
    """Blocks at one resolution, and the patch merging that leads to the next.

    Args:
        blocks: The blocks.
        downsample: Patch merging, or None for the last stage.
        with_cp: Whether activations of each block are recomputed in the backward pass instead of kept.
    """

    def __init__(self, blocks: Sequence[SwinBlock], *, downsample: PatchMerging | None, with_cp: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, H, W, C) to (B, H, W, C), before the patch merging."""
        for block in self.blocks:
            if self.with_cp and torch.is_grad_enabled():
                x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


class SwinTransformerV2(nn.Module):
    """Swin Transformer V2 for images of any size from 32 px.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, ``'large'``, ``'huge'``, ``'giant'`` (1.06B, SimMIM), ``'g'``
            (3.0B, the paper's SwinV2-G), or a dict with ``embed_dims``, ``depths``, ``num_heads`` and optionally
            ``extra_norm_every_n_blocks``; one to four stages.
        window_size: In tokens, 2 to 4096: an int, or one entry per stage, each an int or (h, w). Along an axis where
            the map is no larger than the window, the map is one unshifted window.
        pretrained_window_sizes: The windows that the weights were first trained with, in the same forms; they
            normalise the coordinates of a continuous bias and stay the same when ``window_size`` changes. None: the
            same as ``window_size`` (training from scratch).
        out_indices: Stages whose output is returned, increasing.
        in_channels: Channels of the image.
        mlp_ratio: Hidden channels of the MLPs as a multiple of C, > 0.
        qkv_bias: Whether queries and values have a bias (keys have none).
        drop_rate: Dropout in MLPs and after attention, in [0, 1).
        attn_drop_rate: Dropout of attention probabilities, in [0, 1).
        drop_path_rate: Stochastic depth of the last block, in [0, 1); it grows linearly from 0 over the blocks.
        frozen_stages: -1: nothing is frozen; 0: the patch embedding; i: that and the first i stages, with their
            output norms. Frozen parts have no gradient and stay in evaluation mode.
        norm_eval: Whether norms stay in evaluation mode (a LayerNorm is the same in both).
        with_cp: Activation checkpointing, a bool or one per stage.
        attn_backend: ``'auto'`` or a key of ``mmswinv2.core.attention.BACKENDS``.
        attn_budget_mib: MiB that intermediate results of attention may take, about; None: 64 on a CPU, 512 elsewhere.
        window_fit: ``'exact'``, or ``'balanced'``: per axis, the smallest window with the same number of windows, so
            that windows hold less padding; the bias of a continuous kind is that of the smaller window.
        mask_padding: Whether tokens that pad a map to whole windows are masked; False as in the authors' dense code.
        position_bias: ``'log_cpb'``, ``'linear_cpb'`` or ``'parameterized'`` (a table, resized on load when the
            window is another one; ``docs/checkpoints.md`` says how that is told).
        norm_placement: ``'res_post'``: residual post-norm; ``'pre'``: the arrangement of Swin V1, norms before
            attention, MLP and the reduction of patch merging (for comparison; attention stays the cosine one).

    Raises:
        ValueError: if an argument is out of range, or a list does not have one entry per stage.

    Source:
        arXiv:2111.09883, section 3.
    """

    def __init__(self, arch: str | Mapping = 'tiny', *, window_size: int | Sequence = 8,
                 pretrained_window_sizes: int | Sequence | None = None, out_indices: Sequence[int] = (0, 1, 2, 3),
                 in_channels: int = 3, mlp_ratio: float = 4., qkv_bias: bool = True, drop_rate: float = 0.,
                 attn_drop_rate: float = 0., drop_path_rate: float = 0.2, frozen_stages: int = -1,
                 norm_eval: bool = False, with_cp: bool | Sequence[bool] = False, attn_backend: str = 'auto',
                 attn_budget_mib: int | None = None, window_fit: str = 'exact', mask_padding: bool = True,
                 position_bias: str = 'log_cpb', norm_placement: str = 'res_post') -> None:
        super().__init__()
        self.arch = get_arch(arch)
        num_stages = len(self.arch.depths)
        self.window_sizes = to_windows('window_size', window_size, num_stages)
        self.pretrained_window_given = pretrained_window_sizes is not None
        self.pretrained_window_sizes: tuple[Pair, ...] = self.window_sizes if pretrained_window_sizes is None else (
            to_windows('pretrained_window_sizes', pretrained_window_sizes, num_stages))
        # what a state dict says: of a table, its own window where its rows do not tell that
        self.saved_window_sizes = tuple(
            own if position_bias == 'parameterized' and (own[0] != own[1] or table_rows(own) == table_rows(pretrained))
            else pretrained for own, pretrained in zip(self.window_sizes, self.pretrained_window_sizes))
        self.out_indices = _check_out_indices(out_indices, num_stages)
        with_cp = to_flags('with_cp', with_cp, num_stages)
        if norm_placement not in NORM_PLACEMENTS:
            raise ValueError(f'norm_placement must be one of {", ".join(NORM_PLACEMENTS)}, got {norm_placement!r}')
        norm_first = norm_placement == 'pre'
        drop_path_rate = check_rate('drop_path_rate', drop_path_rate)
        self.in_channels = check_int('in_channels', in_channels, minimum=1)
        self.frozen_stages = check_int('frozen_stages', frozen_stages, minimum=-1, maximum=num_stages)
        self.norm_eval = check_bool('norm_eval', norm_eval)

        self.patch_embed = PatchEmbed(self.in_channels, self.arch.embed_dims)
        self.pos_drop = nn.Dropout(check_rate('drop_rate', drop_rate))
        self.layers = nn.ModuleList()
        every = self.arch.extra_norm_every_n_blocks
        first = 0  # index of the stage's first block among all
        last = max(sum(self.arch.depths) - 1, 1)
        for i, (dim, depth) in enumerate(zip(self.arch.dims, self.arch.depths)):
            attention = dict(
                num_heads=self.arch.num_heads[i], window_size=self.window_sizes[i],
                pretrained_window=self.pretrained_window_sizes[i], position_bias=position_bias, qkv_bias=qkv_bias,
                attn_drop_rate=attn_drop_rate, attn_backend=attn_backend,
                attn_budget_mib=attn_budget_mib, window_fit=window_fit, mask_padding=mask_padding)
            blocks = [
                SwinBlock(dim, shifted=j % 2 == 1, norm_first=norm_first, mlp_ratio=mlp_ratio, drop_rate=drop_rate,
                          drop_path_rate=drop_path_rate * (first + j) / last,
                          extra_norm=every > 0 and (j + 1) % every == 0, attention=attention) for j in range(depth)
            ]
            downsample = PatchMerging(dim, norm_first=norm_first) if i + 1 < num_stages else None
            self.layers.append(SwinStage(blocks, downsample=downsample, with_cp=with_cp[i]))
            first += depth
        for i in self.out_indices:
            self.add_module(f'norm{i}', LayerNorm(self.arch.dims[i]))

        self.apply(_init_linear)
        for stage in [] if norm_first else self.layers:
            for block in stage.blocks:  # residual post-norm starts as the identity
                nn.init.zeros_(block.norm1.weight)
                nn.init.zeros_(block.norm2.weight)
        self._register_state_dict_hook(_save_pretrained_windows)
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Computes the feature maps of an image.

        Args:
            x: Pixels, shape (B, in_channels, h, w), h and w >= 32.

        Returns:
            One map per entry of ``out_indices``, shape (B, C_i, ceil(h/s_i), ceil(w/s_i)); float32 under autocast.

        Raises:
            ValueError: if the image is smaller than 32 px or has another number of channels.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f'x must have the shape (B, {self.in_channels}, h, w), got {tuple(x.shape)}')
        if min(x.shape[2:]) < MIN_IMAGE_SIZE:
            raise ValueError(f'x must be >= {MIN_IMAGE_SIZE} px high and wide, got {x.shape[2]} x {x.shape[3]}')
        x = self.pos_drop(self.patch_embed(x))  # (B, H, W, C)
        outs = []
        for i, stage in enumerate(self.layers[:max(self.out_indices) + 1]):
            if i > 0:
                x = self.layers[i - 1].downsample(x)
            x = stage(x)
            if i in self.out_indices:
                out = getattr(self, f'norm{i}')(x)
                outs.append(out.permute(0, 3, 1, 2).contiguous())  # (B, C_i, H_i, W_i)
        return tuple(outs)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """The layer that a parameter belongs to, for layer-wise learning rates.

        The patch embedding is layer 0, then each block and each patch merging is a layer. Output norms, like
        everything outside the backbone, are of the last layer.

        Args:
            param_name: Name of the parameter.
            prefix: What its name begins with in the whole model.

        Returns:
            (its layer, number of layers).

        Raises:
            ValueError: if no parameter of the backbone has that name.
        """
        starts = [1]  # first layer of each stage
        for stage in self.layers:
            starts.append(starts[-1] + len(stage.blocks) + (stage.downsample is not None))
        name = param_name.removeprefix(prefix)
        parts = name.split('.')
        if name not in dict(self.named_parameters()) or not param_name.startswith(prefix):
            raise ValueError(f'param_name must be a parameter of the backbone under {prefix!r}, got {param_name!r}')
        depth = starts[-1]
        if parts[0] == 'patch_embed':
            depth = 0
        elif parts[0] == 'layers':
            stage = int(parts[1])
            depth = starts[stage] + (int(parts[3]) if parts[2] == 'blocks' else len(self.layers[stage].blocks))
        return depth, starts[-1] + 1

    def train(self, mode: bool = True) -> SwinTransformerV2:
        """Sets the mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, LayerNorm):
                    module.eval()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen = [self.patch_embed, self.pos_drop, *self.layers[:self.frozen_stages]]
        frozen += [getattr(self, f'norm{i}') for i in self.out_indices if i < self.frozen_stages]
        for module in frozen:
            module.eval().requires_grad_(False)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                              error_msgs) -> None:
        saved = said_windows(state_dict, prefix)
        state_dict.pop(prefix + WINDOWS_KEY, None)
        if saved is not None:
            check_configured(saved, self.pretrained_window_sizes, self.saved_window_sizes)
        elif nobody_says(saved, self.pretrained_window_given):
            missing_keys.append(prefix + WINDOWS_KEY)
        self._resize_tables(state_dict, prefix, saved or self.pretrained_window_sizes)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                                      error_msgs)

    def _resize_tables(self, state_dict: dict, prefix: str, windows: tuple[Pair, ...]) -> None:
        """Resizes parameterised tables to the window; ``windows`` are what the file says, or else the config."""
        for i, (own, depth, heads) in enumerate(zip(self.window_sizes, self.arch.depths, self.arch.num_heads)):
            for j in range(depth):
                key = f'{prefix}layers.{i}.blocks.{j}.attn.relative_position_bias_table'
                table = state_dict.get(key)
                if table is not None and table.ndim == 2 and table.shape[1] == heads:  # else torch says what is wrong
                    old = table_window(table.shape[0], windows[i], otherwise=own)
                    state_dict[key] = resize_table(table, old, own)


def _check_out_indices(out_indices: Sequence[int], num_stages: int) -> tuple[int, ...]:
    ok = is_list(out_indices) and len(out_indices) > 0 and all(
        is_int(i) and 0 <= i < num_stages for i in out_indices)
    if not ok or any(a >= b for a, b in zip(out_indices, out_indices[1:])):
        raise ValueError(f'out_indices must be increasing stage indices from 0 to {num_stages - 1}, '
                         f'got {out_indices!r}')
    return tuple(out_indices)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _save_pretrained_windows(module: SwinTransformerV2, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    state_dict[prefix + WINDOWS_KEY] = windows_tensor(module.saved_window_sizes)
