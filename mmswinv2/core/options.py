"""What may be given for the options of a backbone, for type checkers; ``config.py`` says what each of them is."""
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from .arch import Arch

ArchLike = str | Mapping[str, Any] | Arch
WindowsLike = int | Sequence[int | Sequence[int]]  # in tokens: of all stages, or one per stage


class BackboneOptions(TypedDict, total=False):
    """Of :class:`mmswinv2.core.SwinTransformerV2`, beside ``arch``."""

    position_bias: str
    qkv_bias: bool
    drop_rate: float
    attn_drop_rate: float
    attn_backend: str
    attn_budget_mib: int | None
    window_fit: str
    mask_padding: bool
    mlp_ratio: float
    norm_placement: str
    window_size: WindowsLike
    pretrained_window_sizes: WindowsLike | None
    out_indices: Sequence[int]
    in_channels: int
    drop_path_rate: float
    frozen_stages: int
    norm_eval: bool
    with_cp: bool | Sequence[bool]


class VideoOptions(BackboneOptions, total=False):
    """Of :class:`mmswinv2.core.VideoSwinTransformerV2`, beside ``arch``."""

    temporal_patch_size: int


def given(value: object) -> Any:
    """A default as a user would give it, for a field that has the type of what is kept."""
    return value
