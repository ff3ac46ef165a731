"""What a host needs repaired for a process: a function per defect, that does nothing where the defect is absent.

``mmswinv2.engine.setup`` calls them; ``import mmswinv2`` does not.
"""
from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

# of transformers.modeling_utils: mmpretrain's multimodal models are built upon them
NAMES = ('apply_chunking_to_forward', 'find_pruneable_heads_and_indices', 'prune_linear_layer')


def leave_out_multimodal_models() -> None:
    """mmpretrain 1.2.0: ``import mmpretrain.models`` fails beside a current transformers, and ``import mmdet.models``,
    which imports it where it is installed, fails with it.

    Where transformers and pycocotools are installed, mmpretrain takes it that its multimodal models can be imported.
    BLIP's then subclass names that transformers no longer has: ``TypeError: NoneType takes no arguments``. They become
    the placeholders that they are without transformers. No report of it was found upstream, whose last release is of
    January 2024.
    """
    if find_spec('mmpretrain') is None or transformers_has(NAMES):
        return
    from mmpretrain.utils import dependency
    dependency.WITH_MULTIMODAL = False


def transformers_has(names: tuple[str, ...]) -> bool:
    """Whether transformers is not there, or its ``modeling_utils`` knows all names; it is read and not imported."""
    spec = find_spec('transformers')
    if spec is None or not spec.submodule_search_locations:
        return True
    file = Path(spec.submodule_search_locations[0], 'modeling_utils.py')
    text = file.read_text(encoding='utf-8') if file.is_file() else ''
    return all(name in text for name in names)
