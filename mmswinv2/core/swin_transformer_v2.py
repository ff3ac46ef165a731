"""Swin Transformer V2 as a backbone on images: block, stage and backbone. ``video.py`` has the backbone on clips.

Legend: B images, H W tokens, C channels, windows in tokens, stage strides s_i = 4, 8, 16, 32 pixels.

Source:
    arXiv:2111.09883; numbers and names of weights: microsoft/Swin-Transformer, ``models/swin_transformer_v2.py``;
    the extra norm and the norm of each output: SwinTransformer/MIM-Depth-Estimation,
    ``models/swin_transformer_v2.py``.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from .arch import Arch, get_arch
from .attention import WindowAttention
from .checks import AXES, hidden_channels, to_flags
from .config import PATCH_SIZE, BackboneConfig, BlockConfig, shows_options
from .layers import DropPath, LayerNorm, Mlp, PatchEmbed, PatchMerging, dropout
from .pretrained_windows import keep_windows


class Feature(NamedTuple):
    """An output: its stage, channels, and stride in pixels per token."""

    stage: int
    channels: int
    stride: int


class SwinBlock(nn.Module):
    """A block: ``x + drop_path(norm(f(x)))`` for window attention, then for the MLP.

    Args:
        dim: C.
        num_heads: nH, a divisor of C.
        window_size: Tokens along each axis.
        pretrained_window: Tokens along each axis; normalises the coordinates of a continuous bias.
        shifted: Whether the windows are shifted by half their size.
        drop_path_rate: Probability to drop a branch, in [0, 1).
        extra_norm: Whether a LayerNorm on the main branch ends the block.
        keep_hidden: Whether the MLP keeps large hidden maps.
        config: Options of all blocks; with ``norm_placement='pre'`` the rule is ``x + drop_path(f(norm(x)))``.
    """

    def __init__(self, dim: int, num_heads: int, *, window_size: Sequence[int], pretrained_window: Sequence[int],
                 shifted: bool, drop_path_rate: float = 0., extra_norm: bool = False, keep_hidden: bool = False,
                 config: BlockConfig = BlockConfig()) -> None:
        super().__init__()
        self.shifted = shifted
        self.norm_first = config.norm_first
        self.attn = WindowAttention(dim, num_heads, window_size=window_size, pretrained_window=pretrained_window,
                                    config=config)
        self.norm1 = LayerNorm(dim, zero=not config.norm_first)  # residual post-norm starts as the identity
        self.mlp = Mlp(dim, hidden_channels(dim, config.mlp_ratio), drop_rate=config.drop_rate,
                       keep_hidden=keep_hidden)
        self.norm2 = LayerNorm(dim, zero=not config.norm_first)
        self.drop_path = DropPath(drop_path_rate)
        self.norm3 = LayerNorm(dim) if extra_norm else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, *map, C) to (B, *map, C)."""
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

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Runs the blocks, and the merging.

        Args:
            x: Map, shape (B, *map, C).

        Returns:
            (map of the stage (B, *map, C), the merged one for the next stage, with 2C channels, or None).
        """
        for block in self.blocks:
            if self.with_cp and torch.is_grad_enabled():
                x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x, None if self.downsample is None else self.downsample(x)


class SwinTransformerV2(nn.Module):
    """Swin Transformer V2 for images of any size.

    ``forward`` is ``embed``, ``maps``, ``outputs``: mask tokens can follow ``embed``, another head can replace
    ``outputs``.

    Args:
        arch: An architecture by name, or a dict of sizes.
        options: The fields of :class:`mmswinv2.core.BackboneConfig`, which says what each of them is.

    Raises:
        TypeError: if an option is unknown.
        ValueError: if one is out of range, or a list does not have one entry per stage.

    Source:
        arXiv:2111.09883, section 3.
    """

    config_type: ClassVar[type[BackboneConfig]] = BackboneConfig

    @shows_options(BackboneConfig)
    def __init__(self, arch: str | Mapping | Arch = 'tiny', **options: Any) -> None:
        super().__init__()
        self.config = config = self.config_type.of(type(self), arch=arch, **options)
        self.arch = get_arch(config.arch)  # up to the last output
        self.window_sizes = config.windows
        self.pretrained_window_sizes = config.pretrained_windows
        self.out_indices = config.out_indices
        self.frozen_stages = config.frozen_stages

        self.patch_embed = PatchEmbed(config.in_channels, self.arch.embed_dims, patch_size=config.patch_size)
        self.pos_drop = dropout(config.drop_rate)
        self.layers = nn.ModuleList()
        every = self.arch.extra_norm_every_n_blocks
        with_cp = to_flags('with_cp', config.with_cp, len(self.arch.depths))
        for i, (dim, rates) in enumerate(zip(self.arch.dims, config.drop_path_rates)):
            blocks = [
                SwinBlock(dim, self.arch.num_heads[i], window_size=self.window_sizes[i],
                          pretrained_window=self.pretrained_window_sizes[i], shifted=j % 2 == 1, drop_path_rate=rate,
                          extra_norm=every > 0 and (j + 1) % every == 0, keep_hidden=with_cp[i], config=config)
                for j, rate in enumerate(rates)
            ]
            last = i + 1 == len(self.arch.depths)
            downsample = None if last else PatchMerging(dim, norm_first=config.norm_first)
            self.layers.append(SwinStage(blocks, downsample=downsample, with_cp=with_cp[i]))
        for i in self.out_indices:
            self.add_module(f'norm{i}', LayerNorm(self.arch.dims[i]))
        self.apply(_init_linear)
        keep_windows(self, config)
        self._freeze()

    def reset_parameters(self, *, draw: bool = True) -> None:
        """Initialises all weights, as after ``to_empty()``.

        Args:
            draw: Whether linear layers and the patch embedding are drawn at random; otherwise they are zero, which is
                faster where weights are loaded afterwards.
        """
        for module in self.modules():
            if not draw and isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
                for p in module.parameters():
                    nn.init.zeros_(p)
            elif isinstance(module, (nn.Conv2d, nn.Conv3d, nn.LayerNorm, WindowAttention)):
                module.reset_parameters()
        if draw:
            self.apply(_init_linear)

    @property
    def features(self) -> tuple[Feature, ...]:
        """Stage, channels and stride of each output."""
        return tuple(Feature(i, self.arch.dims[i], PATCH_SIZE * 2**i) for i in self.out_indices)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Computes the feature maps of an image.

        Args:
            x: Pixels, shape (B, in_channels, h, w), h and w >= 1; padded with zeros to whole patches.

        Returns:
            One map per entry of ``out_indices``, shape (B, C_i, ceil(h/s_i), ceil(w/s_i)); float32 under autocast.

        Raises:
            ValueError: if the image has no pixels or another number of channels.
        """
        return self.outputs(self.maps(self.embed(x)))

    def embed(self, x: Tensor) -> Tensor:
        """Pixels (B, in_channels, h, w) to tokens (B, ceil(h/4), ceil(w/4), C); errors as in :meth:`forward`.

        :meth:`maps` applies the dropout, so tokens can be replaced in between.
        """
        channels, axes = self.config.in_channels, self.config.axes
        if x.ndim != 2 + axes or x.shape[1] != channels:
            raise ValueError(f'x must have the shape (B, {channels}, {AXES[axes][1:-1]}), got {tuple(x.shape)}')
        if min(x.shape[2:]) < 1:
            raise ValueError(f'x must be >= 1 along each of {AXES[axes]}, got {tuple(x.shape[2:])}')
        return self.patch_embed(x)

    def map_lengths(self, image: Sequence[int]) -> list[tuple[int, ...]]:
        """Tokens along each axis of each stage's map, for an image of ``image`` pixels along each axis."""
        lengths = [tuple(-(-n // size) for n, size in zip(image, self.config.patch_size))]
        for _ in self.layers[1:]:
            *before, h, w = lengths[-1]
            lengths.append((*before, -(-h // 2), -(-w // 2)))
        return lengths

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        """Tokens (B, H, W, C) to the map of each stage (B, H_i, W_i, C_i), up to the last output's."""
        x = self.pos_drop(x)
        for stage in self.layers:
            current, x = stage(x)
            yield current

    def outputs(self, maps: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """Maps of stages to outputs, each normed and (B, C_i, H_i, W_i)."""
        outs = []
        for i, x in enumerate(maps):
            if i in self.out_indices:
                outs.append(getattr(self, f'norm{i}')(x).movedim(-1, 1).contiguous())
        return tuple(outs)

    def get_layer_depth(self, param_name: str, prefix: str = '', *, merging_layers: bool = True) -> tuple[int, int]:
        """The layer that a parameter belongs to, for layer-wise learning rates.

        The patch embedding is layer 0, then each block and each patch merging is a layer. Output norms, like
        everything outside the backbone, are of the last layer.

        Args:
            param_name: Name of the parameter in the whole model.
            prefix: Of the backbone's names in it.
            merging_layers: Whether a patch merging is a layer of its own. Otherwise it belongs to the layer of the
                block before it, as in the release's fine-tuning of SimMIM (its ``optimizer.py``, ``get_swin_layer``).

        Returns:
            (its layer, number of layers).

        Raises:
            ValueError: if ``param_name`` begins with ``prefix`` and is no parameter of the backbone.
        """
        starts = [1]  # first layer of each stage
        for i, blocks in enumerate(self.arch.depths, 1):
            starts.append(starts[-1] + blocks + (merging_layers and i < len(self.arch.depths)))
        depth = starts[-1]
        if param_name.startswith(prefix):
            name = param_name.removeprefix(prefix)
            if name not in dict(self.named_parameters()):
                raise ValueError(f'param_name must be a parameter of the backbone under {prefix!r}, got {param_name!r}')
            # without those of wrappers: _orig_mod, _checkpoint_wrapped_module, module
            parts = [part for part in name.split('.') if not part.startswith('_') and part != 'module']
            if parts[0] in ('patch_embed', 'mask_token'):
                depth = 0
            elif parts[0] == 'layers':
                i = int(parts[1])
                merging = self.arch.depths[i] - (not merging_layers)
                depth = starts[i] + (int(parts[3]) if parts[2] == 'blocks' else merging)
        return depth, starts[-1] + 1

    def train(self, mode: bool = True) -> SwinTransformerV2:
        """Sets the mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        if self.config.norm_eval:
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


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
