"""Swin Transformer V2 on video: the backbone over (t, h, w).

Everything else is the same as on images: cells, position bias, blocks, stages and weights take any number of axes.

Source:
    arXiv:2111.09883, appendix A2.2 and table 5, which give the sizes of clips and windows and no more of the model;
    the patch of 2 frames and merging over space alone: Video Swin Transformer (arXiv:2106.13230, section 3.1).
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from .arch import Arch
from .config import VideoConfig, shows_options
from .swin_transformer_v2 import SwinTransformerV2


class VideoSwinTransformerV2(SwinTransformerV2):
    """Swin Transformer V2 for clips of any length, of frames of any size.

    Windows are (t, h, w) tokens. Along an axis where the map is no longer than the window, there is one unshifted
    window. Coordinates of the position bias are normalised by the pre-training window of their axis.

    Args:
        arch: An architecture by name, or a dict of sizes, as for images.
        options: The fields of :class:`mmswinv2.core.VideoConfig`, which documents each.

    Raises:
        TypeError: if an option is unknown.
        ValueError: if one is out of range, or a list does not have one entry per stage.
    """

    config_type: ClassVar[type[VideoConfig]] = VideoConfig

    @shows_options(VideoConfig)
    def __init__(self, arch: str | Mapping | Arch = 'tiny', **options: Any) -> None:
        super().__init__(arch, **options)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Computes the feature maps of a clip.

        Args:
            x: Frames, shape (B, in_channels, t, h, w), each >= 1; padded with zeros to whole patches of
                ``temporal_patch_size`` frames.

        Returns:
            One map per entry of ``out_indices``, shape (B, C_i, ceil(t/P), ceil(h/s_i), ceil(w/s_i)), P being
            ``temporal_patch_size``; float32 under autocast.

        Raises:
            ValueError: if the clip has no frames or pixels, or the shape is another.
        """
        return super().forward(x)
