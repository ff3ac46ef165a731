"""Options of blocks and of the whole backbone: typed, checked once, each named once."""
from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, ClassVar, TypeVar

from .arch import Arch, get_arch
from .attention.config import AttentionConfig
from .checks import (
    MAX_WINDOW,
    Windows,
    check_bool,
    check_choice,
    check_int,
    check_rate,
    hidden_channels,
    is_int,
    is_list,
    to_flags,
    to_windows,
)

Constructor = TypeVar('Constructor', bound=Callable[..., None])

NORM_PLACEMENTS = ('res_post', 'pre')
PATCH_SIZE = 4  # pixels


@dataclass(frozen=True, kw_only=True)
class BlockConfig(AttentionConfig):
    """Options that all blocks share.

    Args:
        mlp_ratio: Hidden channels of the MLPs as a multiple of C, > 0.
        norm_placement: ``'res_post'``: residual post-norm; ``'pre'``: the arrangement of Swin V1, norms before
            attention, MLP and the reduction of patch merging (for comparison; attention stays scaled cosine).

    Raises:
        ValueError: if an argument is out of range.
    """

    mlp_ratio: float = 4.
    norm_placement: str = 'res_post'

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice('norm_placement', self.norm_placement, NORM_PLACEMENTS)

    @property
    def norm_first(self) -> bool:
        """Whether norms come before what they norm."""
        return self.norm_placement == 'pre'


@dataclass(frozen=True, kw_only=True)
class BackboneConfig(BlockConfig):
    """The options of :class:`mmswinv2.core.SwinTransformerV2`, which takes them as keywords.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, ``'large'``, ``'huge'``, ``'simmim_giant'`` (1.06B), ``'g'``
            (3.0B, the paper's SwinV2-G), or a dict with ``embed_dims``, ``depths``, ``num_heads`` and optionally
            ``extra_norm_every_n_blocks``; one to four stages.
        window_size: In tokens, 2 to 4096: an int, or one entry per stage, each an int or (h, w). Along an axis where
            the map is no larger than the window, the map is one unshifted window.
        pretrained_window_sizes: The windows that the weights were first trained with, in the same forms. They
            normalise the coordinates of a continuous bias and do not change with ``window_size``. None: the
            same as ``window_size`` (training from scratch).
        out_indices: Stages whose output is returned, increasing. Later stages are not built: ``arch`` and what has an
            entry per stage end with the last output, and ``drop_path_rate`` is that of its last block.
        in_channels: Channels of the image.
        drop_path_rate: Stochastic depth of the last block, in [0, 1); it grows linearly from 0 over the blocks.
        frozen_stages: -1: nothing is frozen; 0: the patch embedding; i: that and the first i stages, with their
            output norms. Frozen parts have no gradient and stay in evaluation mode.
        norm_eval: Whether norms stay in evaluation mode (a LayerNorm is the same in both).
        with_cp: Activation checkpointing, a bool or one per stage.

    Raises:
        ValueError: if an argument is out of range, or a list does not have one entry per stage.
    """

    arch: str | Mapping | Arch = 'tiny'
    window_size: int | Sequence = 8
    pretrained_window_sizes: int | Sequence | None = None
    out_indices: Sequence[int] = (0, 1, 2, 3)
    in_channels: int = 3
    drop_path_rate: float = 0.2
    frozen_stages: int = -1
    norm_eval: bool = False
    with_cp: bool | Sequence[bool] = False
    axes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        arch = get_arch(self.arch)
        stages = len(arch.depths)
        for dim in arch.dims:
            hidden_channels(dim, self.mlp_ratio)
        checked: dict[str, Any] = dict(
            arch=arch,
            window_size=self.windows,
            pretrained_window_sizes=None if self.pretrained_window_sizes is None else self.pretrained_windows,
            out_indices=_to_indices('out_indices', self.out_indices, stages),
            with_cp=to_flags('with_cp', self.with_cp, stages),
            drop_path_rate=check_rate('drop_path_rate', self.drop_path_rate),
            in_channels=check_int('in_channels', self.in_channels, minimum=1),
            frozen_stages=check_int('frozen_stages', self.frozen_stages, minimum=-1, maximum=stages),
            norm_eval=check_bool('norm_eval', self.norm_eval))
        last = checked['out_indices'][-1] + 1
        if last < stages:
            checked.update(
                arch=replace(arch, depths=arch.depths[:last], num_heads=arch.num_heads[:last]),
                drop_path_rate=self.drop_path_rates[last - 1][-1],
                **{name: value and value[:last] for name, value in checked.items()
                   if name in ('window_size', 'pretrained_window_sizes', 'with_cp')})
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, backbone: type, **options: Any) -> BackboneConfig:
        """The options of a backbone of class ``backbone``, as the constructor.

        Raises:
            TypeError: if some are unknown; all are named, each with the nearest option of the class.
        """
        unknown = [name for name in options if name not in {field.name for field in fields(cls)}]
        if unknown:
            raise TypeError(_describe_unknown(backbone, unknown))
        return cls(**options)

    @property
    def patch_size(self) -> tuple[int, ...]:
        """Patch size of the embedding, along each axis."""
        return (PATCH_SIZE, PATCH_SIZE)

    @property
    def windows(self) -> Windows:
        """The window of each stage, in tokens."""
        return to_windows('window_size', self.window_size, len(get_arch(self.arch).depths), axes=self.axes)

    @property
    def pretrained_windows(self) -> Windows:
        """The pre-training window of each stage, in tokens."""
        value = self.pretrained_window_sizes
        return self.windows if value is None else (
            to_windows('pretrained_window_sizes', value, len(get_arch(self.arch).depths), axes=self.axes))

    @property
    def drop_path_rates(self) -> tuple[tuple[float, ...], ...]:
        """Drop path rate of each block, by stage: from 0 to ``drop_path_rate``, linearly."""
        depths = get_arch(self.arch).depths
        last = max(sum(depths) - 1, 1)
        return tuple(tuple(self.drop_path_rate * (sum(depths[:i]) + j) / last for j in range(depth))
                     for i, depth in enumerate(depths))


@dataclass(frozen=True, kw_only=True)
class VideoConfig(BackboneConfig):
    """The options of :class:`mmswinv2.core.VideoSwinTransformerV2`: those of images with windows (t, h, w), and

    Args:
        temporal_patch_size: Frames of a patch, 1 to 4096.

    Raises:
        ValueError: if an argument is out of range, or a list does not have one entry per stage.
    """

    temporal_patch_size: int = 2
    axes: ClassVar[int] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, 'temporal_patch_size', check_int(
            'temporal_patch_size', self.temporal_patch_size, minimum=1, maximum=MAX_WINDOW, unit=' frames'))

    @property
    def patch_size(self) -> tuple[int, ...]:
        """Patch size of the embedding, along each axis."""
        return (self.temporal_patch_size, *super().patch_size)


def shows_options(config: type[BackboneConfig]) -> Callable[[Constructor], Constructor]:
    """Shows the fields of a config in the signature of a constructor ``(self, arch, **options)``, and in its help."""
    def show(constructor: Constructor) -> Constructor:
        own = inspect.signature(constructor)
        this, arch, _ = own.parameters.values()
        options = [option for name, option in inspect.signature(config).parameters.items() if name != 'arch']
        setattr(constructor, '__signature__', own.replace(parameters=[this, arch, *options]))
        return constructor
    return show


def _to_indices(name: str, value: Sequence[int], stages: int) -> tuple[int, ...]:
    ok = is_list(value) and len(value) > 0 and all(is_int(i) and 0 <= i < stages for i in value)
    if not ok or any(a >= b for a, b in zip(value, value[1:])):
        raise ValueError(f'{name} must be increasing stage indices from 0 to {stages - 1}, got {value!r}')
    return tuple(value)


def _describe_unknown(backbone: type, names: Sequence[str]) -> str:
    constructors = [vars(base)['__init__'] for base in backbone.__mro__ if '__init__' in vars(base)]
    known = {name for constructor in constructors for name in inspect.signature(constructor).parameters}
    known -= {'self', 'args', 'kwargs', 'options'}
    near = {name: get_close_matches(name, known, 1, .7) for name in names}
    sizes = [field.name for field in fields(Arch)]
    said = [f'{name} (did you mean {near[name][0]}?)' if near[name] else f'{name} (of arch=dict(...))' if name in sizes
            else name for name in names]
    text = f'{backbone.__name__} has no option{"s" * (len(names) > 1)} {", ".join(said)}'
    if all(get_close_matches(name, known, 1, .8) for name in names):
        return text
    return (f'{text}; where a config inherits them from another backbone, _delete_=True in its backbone=dict(...) '
            'leaves them out')
