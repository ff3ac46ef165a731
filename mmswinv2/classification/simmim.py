"""SimMIM: a share of the image is masked, its pixels are predicted, and the loss is their L1 distance.

Legend: B images, C channels, h w pixels, H W tokens of 4 x 4 pixels, k pixels of a box.

Source:
    arXiv:2111.09886; microsoft/Swin-Transformer, ``models/simmim.py`` (where tokens are masked, the decoder, the norm
    target, the loss).
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModule
from mmpretrain.models.selfsup import SimMIM as _SimMIM
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..core.checks import check_int
from ..core.torch_compat import autocast_to
from ..models import SwinTransformerV2
from ..registry import METRICS, MODELS

TOKEN_STD = .02
EPSILON = 1e-6  # of the norm target's variance
MASK_EPSILON = 1e-5  # added to the number of masked pixels, which as an integer gives float32, as in the release


@MODELS.register_module()
class SimMIMSwinTransformerV2(SwinTransformerV2):
    """The backbone with a mask token, which replaces masked tokens after the norm of the patch embedding.

    Arguments are those of :class:`mmswinv2.models.SwinTransformerV2`. Its checkpoints load into that class unchanged,
    and so into classifiers, detectors and segmentors.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.mask_token = nn.Parameter(torch.empty(1, 1, self.arch.dims[0]))
        nn.init.trunc_normal_(self.mask_token, std=TOKEN_STD)

    def reset_parameters(self) -> None:
        """Initialises all weights, as after ``to_empty()``."""
        super().reset_parameters()
        nn.init.trunc_normal_(self.mask_token, std=TOKEN_STD)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """Computes the maps of images some of whose tokens are hidden.

        Args:
            x: Pixels, (B, in_channels, h, w).
            mask: 1 where a token is masked, else 0, (B, H, W); None: nothing is.

        Returns:
            As the backbone.

        Raises:
            ValueError: if the mask is of another shape.
        """
        if mask is None:
            return super().forward(x)
        with autocast_to(x.device, self.autocast_dtype):
            x = self.embed(x)
            if mask.shape != x.shape[:-1]:
                raise ValueError(f'mask must have the shape (B, H, W) of the tokens, {tuple(x.shape[:-1])}, got '
                                 f'{tuple(mask.shape)}')
            x = torch.where(mask[..., None] > 0, self.mask_token.to(x.dtype), x)
            return self.outputs(self.maps(x))


def norm_target(x: Tensor, size: int) -> Tensor:
    """Normalises each pixel by the mean and standard deviation of the box around it; boxes end at the image's border.

    Means are differences of sums over rectangles from the corner, in float64, which costs the same for every box.

    Args:
        x: Shape (B, C, h, w), floating.
        size: k, odd.

    Returns:
        The same shape and dtype.
    """
    half = size // 2
    ends = []
    for axis, length in ((-2, x.shape[-2]), (-1, x.shape[-1])):
        at = torch.arange(length, device=x.device)
        ends.append((axis, (at - half).clamp(min=0), (at + half + 1).clamp(max=length)))

    def box(values: Tensor) -> Tensor:
        for axis, first, after in ends:
            sums = F.pad(values.cumsum(axis), (1, 0) if axis == -1 else (0, 0, 1, 0))
            values = sums.index_select(axis, after) - sums.index_select(axis, first)
        return values

    wide = x.double()
    number = box(torch.ones_like(wide[:1, :1]))
    mean = box(wide) / number
    variance = ((box(wide.square()) / number - mean.square()) * (number / (number - 1))).clamp(min=0)
    return ((wide - mean) / (variance + EPSILON).sqrt()).to(x.dtype)


@MODELS.register_module()
class SimMIMHead(BaseModule):
    """The loss: L1 of masked pixels.

    Args:
        patch_size: Pixels of a token along an axis.
        norm_target: k, the side of the box that normalises target pixels (the release: 47 for SwinV2). None: no
            normalisation, as in the paper.

    Raises:
        ValueError: if ``norm_target`` is even or below 3.
    """

    def __init__(self, patch_size: int = 4, norm_target: int | None = None) -> None:
        super().__init__()
        self.patch_size = check_int('patch_size', patch_size, minimum=1)
        if norm_target is not None and (check_int('norm_target', norm_target, minimum=3) % 2 == 0):
            raise ValueError(f'norm_target must be an odd number of pixels, got {norm_target}')
        self.norm_target = norm_target

    def target(self, images: Tensor) -> Tensor:
        """The prediction target of images (B, C, h, w): the same shape."""
        return images if self.norm_target is None else norm_target(images, self.norm_target)

    def pixels(self, mask: Tensor) -> Tensor:
        """Turns a mask of tokens (B, H, W) into a mask of pixels (B, 1, h, w)."""
        for axis in (-2, -1):
            mask = mask.repeat_interleave(self.patch_size, axis)
        return mask[:, None]

    def loss(self, pred: Tensor, images: Tensor, mask: Tensor) -> Tensor:
        """The mean over masked pixels and channels.

        Args:
            pred: Shape (B, C, h, w).
            images: The same, normalised by the data preprocessor.
            mask: 1 where a token is masked, (B, H, W).
        """
        mask = self.pixels(mask)
        return ((self.target(images) - pred).abs() * mask).sum() / (mask.sum() + MASK_EPSILON) / images.shape[1]


@MODELS.register_module()
class SimMIM(_SimMIM):
    """mmpretrain's ``SimMIM`` with validation, by the masked L1 of each image (:class:`MaskedL1`).

    Its arguments are mmpretrain's: ``backbone`` (:class:`SimMIMSwinTransformerV2`), ``neck``
    (``SimMIMLinearDecoder``), ``head`` (:class:`SimMIMHead`).
    """

    def forward(self, inputs, data_samples: list[DataSample] | None = None, mode: str = 'tensor'):
        """As mmpretrain's; with ``mode='predict'`` see :meth:`predict`."""
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        return super().forward(inputs, data_samples, mode)

    def predict(self, inputs: Tensor, data_samples: list[DataSample]) -> list[DataSample]:
        """Adds predictions to each sample.

        ``masked_l1`` is its loss, ``mean_l1`` the loss when the mean of its visible pixels is predicted, and
        ``reconstruction`` (C, h, w) is normalised as the input or as the norm target.
        """
        mask = torch.stack([sample.mask for sample in data_samples])
        rec = self.neck(self.backbone(inputs, mask)[0])
        target, hidden = self.head.target(inputs), self.head.pixels(mask).to(rec.dtype)
        for i, sample in enumerate(data_samples):
            part = slice(i, i + 1)
            visible = (1 - hidden[part]).sum()
            mean = (target[part] * (1 - hidden[part])).sum((-2, -1), keepdim=True) / visible.clamp(min=1)
            sample.masked_l1 = self.head.loss(rec[part], inputs[part], mask[part])
            sample.mean_l1 = self.head.loss(mean.expand_as(rec[part]), inputs[part], mask[part])
            sample.reconstruction = rec[i]
        return data_samples


@METRICS.register_module()
class MaskedL1(BaseMetric):
    """The images' mean masked L1, and for comparison the one of predicting the mean of each image's visible pixels."""

    default_prefix = 'simmim'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keeps two numbers of each image."""
        self.results.extend((float(s['masked_l1']), float(s['mean_l1'])) for s in data_samples)

    def compute_metrics(self, results: list[tuple[float, float]]) -> dict[str, float]:
        """``masked_l1`` and ``mean_l1``."""
        ours, mean = zip(*results)
        return dict(masked_l1=sum(ours) / len(ours), mean_l1=sum(mean) / len(mean))
