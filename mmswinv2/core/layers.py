"""Layers around attention: patch embedding, patch merging, MLP, drop path, LayerNorm.

Legend: B images or clips, T frames in tokens, H W tokens, C channels. Maps are (B, H, W, C) or (B, T, H, W, C).

Source:
    microsoft/Swin-Transformer, ``models/swin_transformer_v2.py`` (names of weights, order of merging, the norm after
    the reduction); padding of odd maps as in the dense code of Swin V1 and V2.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .checks import check_rate
from .torch_compat import device_type, is_transformed, product_dtype

CHUNK_BYTES = 512 * 2**20  # size of one chunk of an MLP's hidden map
CHUNK_BYTES_CPU = 4 * 2**20  # fits the cache
KEPT_CHUNKS = 1.5  # a map of at most so many chunks is processed whole, and kept for the backward pass


def chunk_bytes(device: torch.device) -> int:
    """Bytes of a map that are processed at once."""
    return CHUNK_BYTES_CPU if device_type(device) == 'cpu' else CHUNK_BYTES


def is_kept(device: torch.device, size: int) -> bool:
    """Whether a map of ``size`` bytes is kept for the backward pass instead of recomputed."""
    return size <= KEPT_CHUNKS * chunk_bytes(device)


def dropout(rate: float) -> nn.Module:
    """Dropout; nothing where the rate is 0, since even then a call of it takes time."""
    return nn.Dropout(rate) if rate else nn.Identity()


class LayerNorm(nn.LayerNorm):
    """LayerNorm over C in the dtype of its weights: float32 under autocast, whatever the dtype of the input.

    Args:
        dim: C.
        zero: Whether its weight starts at 0 instead of 1.
    """

    def __init__(self, dim: int, *, zero: bool = False) -> None:
        self.zero = zero  # which the constructor of torch's initialises by
        super().__init__(dim)

    def reset_parameters(self) -> None:
        """Initialises weight and bias."""
        super().reset_parameters()
        if self.zero:
            nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (..., C)."""
        weight = self.weight
        return F.layer_norm(x.to(weight.dtype), self.normalized_shape, weight, self.bias, self.eps)


class DropPath(nn.Module):
    """Stochastic depth: drops a residual branch per image, and scales the kept ones by ``1 / (1 - rate)``.

    Args:
        rate: Probability of a drop, in [0, 1).
    """

    def __init__(self, rate: float = 0.) -> None:
        super().__init__()
        self.rate = check_rate('drop_path_rate', rate)

    def forward(self, x: Tensor) -> Tensor:
        """Drops along the first axis of (B, ...)."""
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(x.shape[:1] + (1,) * (x.ndim - 1), device=x.device) >= self.rate
        return torch.where(keep, x / (1 - self.rate), 0)

    def extra_repr(self) -> str:
        """The rate, for ``print(model)``."""
        return f'rate={self.rate:.3g}'


class Mlp(nn.Module):
    """Two linear layers with a GELU between them.

    Where the hidden map is large, tokens are processed in chunks, whose hidden maps are recomputed in the backward pass
    instead of kept: one matrix product more beside six, for half of what a block keeps.

    Args:
        dim: C.
        hidden_dim: Channels between the two.
        drop_rate: Dropout after each layer, in [0, 1).
        keep_hidden: Whether hidden maps are kept however large: for checkpointed blocks, which recompute them anyway.
    """

    def __init__(self, dim: int, hidden_dim: int, *, drop_rate: float = 0., keep_hidden: bool = False) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.keep_hidden = keep_hidden
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = dropout(check_rate('drop_rate', drop_rate))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., C) to (..., C)."""
        if is_transformed():
            return self._map(x)
        hidden = self.hidden_dim * product_dtype(x).itemsize  # bytes a token
        if is_kept(x.device, x.shape[:-1].numel() * hidden) or self.keep_hidden and torch.is_grad_enabled():
            return self._map(x)
        tokens, rows = x.flatten(0, -2), max(1, chunk_bytes(x.device) // hidden)
        if torch.is_grad_enabled():
            chunks = [checkpoint(self._map, part, use_reentrant=False) for part in tokens.split(rows)]
            return torch.cat(chunks).view(*x.shape[:-1], -1)
        out: Tensor | None = None
        for start in range(0, len(tokens), rows):
            y = self._map(tokens[start:start + rows])
            if out is None:
                out = y.new_empty(len(tokens), y.shape[-1])
            out[start:start + rows] = y
        assert out is not None  # a map without tokens is kept
        return out.view(x.shape)

    def _map(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))


class PatchEmbed(nn.Module):
    """Embeds patches; the image or clip is padded with zeros at its ends to whole patches.

    Args:
        in_channels: Channels of the image.
        dim: C.
        patch_size: Along each axis, in pixels, and in frames along the first of three.
    """

    def __init__(self, in_channels: int, dim: int, *, patch_size: Sequence[int] = (4, 4)) -> None:
        super().__init__()
        self.patch_size = tuple(patch_size)
        conv: Callable[..., nn.Conv2d | nn.Conv3d] = nn.Conv2d if len(self.patch_size) == 2 else nn.Conv3d
        self.proj = conv(in_channels, dim, kernel_size=self.patch_size, stride=self.patch_size)
        self.norm = LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, [t,] h, w) to (B, [ceil(t/P),] ceil(h/4), ceil(w/4), C) tokens."""
        # in a form in which a symbol's padded length is seen to be a multiple; ONNX divides towards zero
        missing = [(length + size - 1) // size * size - length for length, size in zip(x.shape[2:], self.patch_size)]
        x = F.pad(x, [n for last in reversed(missing) for n in (0, last)])
        return self.norm(self.proj(x).movedim(1, -1))


class PatchMerging(nn.Module):
    """Merges 2 x 2 tokens into one token of twice the channels; each frame of a clip is merged by itself.

    An odd map is padded with zeros at the bottom and right. For a large map, the copy with 4C channels is recomputed in
    the backward pass instead of kept.

    Args:
        dim: C of the input.
        norm_first: Whether the norm applies to the 4C channels before the reduction, as in Swin V1, instead of the
            2C channels after it.
    """

    def __init__(self, dim: int, *, norm_first: bool = False) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = LayerNorm(4 * dim if norm_first else 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, [T,] H, W, C) to (B, [T,] ceil(H/2), ceil(W/2), 2C)."""
        kept = is_transformed() or not torch.is_grad_enabled() or is_kept(x.device, x.numel() * x.element_size())
        x = self._reduce(x) if kept else checkpoint(self._reduce, x, use_reentrant=False)
        return x if self.norm_first else self.norm(x)

    def _reduce(self, x: Tensor) -> Tensor:
        *before, h, w, c = x.shape
        rows, columns = (h + 1) // 2, (w + 1) // 2
        x = F.pad(x, (0, 0, 0, 2 * columns - w, 0, 2 * rows - h))
        x = x.reshape(-1, rows, 2, columns, 2, c)
        # the release concatenates (row, column) = (0,0), (1,0), (0,1), (1,1): the column's parity is the slower one
        x = x.permute(0, 1, 3, 4, 2, 5).reshape(*before, rows, columns, 4 * c)
        return self.reduction(self.norm(x) if self.norm_first else x)
