"""State-dict layouts of this and other projects, one module each, and how the layout of a file is detected.

The backbone's names are those of the Microsoft release. See ``base.py`` for the contents of a layout, and
``docs/checkpoints.md``.
"""
from __future__ import annotations

from collections.abc import Iterable

from ...checks import first
from . import microsoft, mmpretrain, mmswinv2, simmim, timm, torchvision, transformers
from .base import EXTRAS, OWN, Layout, any_name

# in the order in which they are asked whether names are theirs; the release last, which has no mark of its own
LAYOUTS: dict[str, Layout] = {module.LAYOUT.name: module.LAYOUT for module in (
    mmswinv2, simmim, timm, transformers, torchvision, mmpretrain, microsoft)}

__all__ = ['EXTRAS', 'LAYOUTS', 'OWN', 'Layout', 'detect_layout', 'find_prefix', 'find_prefixes']


def find_prefixes(names: Iterable[str]) -> list[str]:
    """Finds the prefixes of all backbones in a file, by their patch embeddings."""
    ends = {layout.embedding for layout in LAYOUTS.values()}
    return [name.removesuffix(end) for name in names for end in ends if f'.{name}'.endswith(f'.{end}')]


def find_prefix(names: Iterable[str]) -> str:
    """Finds the prefix of the one backbone in a file.

    Raises:
        ValueError: if there is no patch embedding, or more than one.
    """
    names = list(names)
    found = find_prefixes(names)
    if not found:
        raise ValueError('checkpoint must hold a Swin Transformer V2 in a known layout '
                         f'({", ".join(LAYOUTS)}); it has no patch embedding among {len(names)} names '
                         f'({first(names)})')
    if len(found) > 1:
        raise ValueError(f'prefix must say which backbone of the checkpoint is meant, one of {found}')
    return found[0]


def detect_layout(names: Iterable[str], prefix: str = '') -> str:
    """Detects a layout from the names below the prefix; never from the name of a file.

    Raises:
        ValueError: if the names are those of no known layout.
    """
    names = list(names)
    if any_name(names, r'\.meta_mlp\.'):
        raise ValueError('checkpoint must not be of swinv2_cr (timm): its position bias and norms are others than '
                         'those of Swin Transformer V2')
    if not any_name(names, r'logit_scale$') and any_name(names, r'relative_position_bias_table$'):
        raise ValueError('checkpoint must be of Swin Transformer V2, got Swin V1: without logit_scale, its attention '
                         'is not the cosine attention of this backbone')
    for layout in LAYOUTS.values():
        if layout.matches(names, prefix):
            return layout.name
    raise ValueError(f'checkpoint must hold a Swin Transformer V2 in a known layout ({", ".join(LAYOUTS)}), '
                     f'got {len(names)} names ({first(names)})')
