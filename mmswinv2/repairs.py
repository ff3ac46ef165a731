"""What a host needs repaired for a process: a function per defect, that does nothing where the defect is absent.

``mmswinv2.engine.setup`` calls them; ``import mmswinv2`` does not.
"""
from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np

# of transformers.modeling_utils: multimodal models of mmpretrain and mmaction2 are built upon them
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


def leave_out_vindlu() -> None:
    """mmaction2 1.2.0: ``import mmaction.models`` fails beside transformers where timm is not installed.

    Where transformers is installed, mmaction2 takes it that its multimodal model VindLU can be imported, which needs
    timm too, and an older transformers. It becomes the placeholder that it is without transformers. No report of it was
    found upstream, whose last release is of October 2023.
    """
    if find_spec('mmaction') is None or find_spec('transformers') is None:
        return
    if find_spec('timm') is None or not transformers_has(NAMES):
        from mmaction.utils import dependency
        dependency.WITH_MULTIMODAL = False


class DRN:
    """Stands for mmaction2's localizer in :func:`stand_in_for_drn`.

    Raises:
        ImportError: when it is made.
    """

    def __init__(self, *args, **kwargs) -> None:
        raise ImportError('DRN needs mmaction/models/localizers/drn, which the wheel of mmaction2 1.2.0 lacks; install '
                          'mmaction2 from its repository')


def stand_in_for_drn() -> None:
    """mmaction2 1.2.0: its wheel lacks ``mmaction/models/localizers/drn``, and ``import mmaction.models`` fails:
    ``ModuleNotFoundError: No module named 'mmaction.models.localizers.drn'`` (open-mmlab/mmaction2#2714, open).

    The folder has no ``__init__.py``, so that packaging leaves it out. A class that cannot be made takes the place of
    the one localizer in it; where the folder is there nothing is done.
    """
    spec, name = find_spec('mmaction'), 'mmaction.models.localizers.drn'
    if spec is None or not spec.submodule_search_locations or f'{name}.drn' in sys.modules:
        return
    localizers = Path(spec.submodule_search_locations[0], 'models', 'localizers')
    init = localizers / '__init__.py'
    if (localizers / 'drn').is_dir() or not init.is_file() or 'drn.drn' not in init.read_text(encoding='utf-8'):
        return
    package, module = ModuleType(name), ModuleType(f'{name}.drn')
    package.__path__, package.drn, module.DRN = [], module, DRN
    sys.modules.update({name: package, f'{name}.drn': module})


def draw_images_of_any_layout() -> None:
    """mmseg 1.2.2: ``browse_dataset`` fails: ``Layout of the output array img is incompatible with cv::Mat``
    (open-mmlab/mmsegmentation#3405, open).

    It gives ``SegLocalVisualizer`` an image whose channels are first in memory, and OpenCV is to draw on an array of
    that layout. An image with channels last is drawn as it is. mmseg is not imported for it.
    """
    if 'mmseg' not in sys.modules:
        return
    from mmseg.visualization import SegLocalVisualizer
    draw = SegLocalVisualizer._draw_sem_seg
    if draw.__module__ == __name__:
        return

    def draw_in_order(self, image: np.ndarray, *args, **kwargs) -> np.ndarray:
        return draw(self, np.ascontiguousarray(image), *args, **kwargs)

    SegLocalVisualizer._draw_sem_seg = draw_in_order


def transformers_has(names: tuple[str, ...]) -> bool:
    """Whether transformers is not there, or its ``modeling_utils`` knows all names; it is read and not imported."""
    spec = find_spec('transformers')
    if spec is None or not spec.submodule_search_locations:
        return True
    file = Path(spec.submodule_search_locations[0], 'modeling_utils.py')
    text = file.read_text(encoding='utf-8') if file.is_file() else ''
    return all(name in text for name in names)
