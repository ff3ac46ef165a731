"""The table of architectures: sizes as data.

Legend: C ``embed_dims`` channels of the first stage (doubled at each later one), ``depths`` blocks per stage,
``num_heads`` attention heads per stage (32 channels each in every published model).

Source:
    arXiv:2111.09883, section 3.6 (C, depths, the extra norm of H and G); microsoft/Swin-Transformer,
    ``configs/swinv2`` (heads of T to L) and ``MODELHUB.md`` (the 1.06B "SwinV2-giant" of SimMIM);
    SwinTransformer/MIM-Depth-Estimation, ``models/model.py`` (heads of H). G has depths 2, 2, 42, 4: the first
    preprint printed 2, 2, 42, 2, which counts to 2.6B parameters and not to its own 3.0B.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from .checks import check_int, is_int, is_list

ARCHS: dict[str, dict] = {
    'tiny': dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
    'small': dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
    'base': dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
    'large': dict(embed_dims=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48)),
    'huge': dict(embed_dims=352, depths=(2, 2, 18, 2), num_heads=(11, 22, 44, 88), extra_norm_every_n_blocks=6),
    'simmim_giant': dict(embed_dims=448, depths=(2, 2, 18, 2), num_heads=(14, 28, 56, 112)),
    'g': dict(embed_dims=512, depths=(2, 2, 42, 4), num_heads=(16, 32, 64, 128), extra_norm_every_n_blocks=6),
}


@dataclass(frozen=True)
class Arch:
    """One architecture, checked.

    Args:
        embed_dims: C, channels of the first stage.
        depths: Blocks per stage, one to four stages.
        num_heads: Attention heads per stage; each divides its stage's channels.
        extra_norm_every_n_blocks: A LayerNorm on the main branch after every n-th block, counted within the stage;
            0 for none.

    Raises:
        ValueError: if a value is out of range or the lists do not have one entry per stage.
    """

    embed_dims: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    extra_norm_every_n_blocks: int = 0

    def __post_init__(self) -> None:
        for name in ('depths', 'num_heads'):
            value = getattr(self, name)
            if not is_list(value) or not 1 <= len(value) <= 4 or not all(is_int(v) and v >= 1 for v in value):
                raise ValueError(f'arch.{name} must be one to four integers >= 1, one per stage, got {value!r}')
            object.__setattr__(self, name, tuple(value))
        if len(self.depths) != len(self.num_heads):
            raise ValueError('arch.num_heads must have one entry per stage, as arch.depths has: '
                             f'{len(self.depths)}, got {self.num_heads!r}')
        check_int('arch.embed_dims', self.embed_dims, minimum=1)
        check_int('arch.extra_norm_every_n_blocks', self.extra_norm_every_n_blocks, minimum=0, unit=' (0 for none)')
        for dim, heads in zip(self.dims, self.num_heads):
            if dim % heads:
                raise ValueError(f'arch.num_heads must divide the channels of its stage ({dim}), got {heads}')

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels per stage: C, 2C, 4C, 8C."""
        return tuple(self.embed_dims * 2**i for i in range(len(self.depths)))


def get_arch(arch: str | Mapping | Arch) -> Arch:
    """Looks an architecture up by name, or checks one given as a mapping.

    Args:
        arch: One of ``ARCHS``, an ``Arch``, or a mapping with ``embed_dims``, ``depths``, ``num_heads`` and optionally
            ``extra_norm_every_n_blocks``.

    Raises:
        ValueError: if the name is unknown, or the mapping lacks a key, has an unknown one or a bad value.
    """
    if isinstance(arch, str):
        if arch == 'giant':
            raise ValueError("arch must be 'simmim_giant' for the public 1.06B model of SimMIM, or 'g' for the paper's "
                             "3.0B SwinV2-G, which mmpretrain calls giant; got 'giant'")
        if arch not in ARCHS:
            raise ValueError(f'arch must be one of {", ".join(ARCHS)}, or a dict, got {arch!r}')
        return Arch(**ARCHS[arch])
    if isinstance(arch, Arch):
        return arch
    if not isinstance(arch, Mapping):
        raise ValueError(f'arch must be a name or a dict, got {arch!r}')
    known = [f.name for f in fields(Arch)]
    unknown = sorted(set(arch) - set(known))
    missing = sorted({'embed_dims', 'depths', 'num_heads'} - set(arch))
    if unknown or missing:
        raise ValueError(f'arch must have the keys embed_dims, depths, num_heads and may have '
                         f'extra_norm_every_n_blocks; missing {missing}, unknown {unknown}')
    return Arch(**{k: arch[k] for k in known if k in arch})


def arch_name(arch: Arch) -> str | None:
    """The name of an architecture, if it is one of ``ARCHS``."""
    return next((name for name in ARCHS if get_arch(name) == arch), None)


def describe_arch(arch: Arch) -> str:
    """An architecture as it stands in a config, for a message."""
    sizes = ', '.join(f'{field.name}={value}' for field in fields(Arch) if (value := getattr(arch, field.name)))
    name = arch_name(arch)
    return f'arch=dict({sizes})' if name is None else f'arch={name!r} ({sizes})'
