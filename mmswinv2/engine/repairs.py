"""What a host needs repaired for a process: a function per defect, that does nothing where the defect is absent.

``mmswinv2.engine.setup`` calls them; ``import mmswinv2`` does not.
"""
from __future__ import annotations

import functools
import logging
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from math import prod
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


def count_every_annotation() -> None:
    """pycocotools 2.0.11: AP is too low, or evaluation fails, for annotations that training reads.

    An object whose annotation has the id 0 counts as missed (cocodataset/cocoapi#332, open), annotations that share an
    id count as one, those without ``iscrowd`` end in a ``KeyError`` (cocodataset/cocoapi#374), ids of categories that
    are text are read letter by letter, and a part of a mask that has one or two points and comes first is taken for a
    box; mmdet trains on the other parts. Before a file is indexed such ids become numbers, ``iscrowd`` 0, and such
    parts are left out.
    """
    if find_spec('pycocotools') is None:
        return
    from pycocotools.coco import COCO

    def completed(create_index: Callable) -> Callable:
        def create(self) -> None:
            annotations, categories = self.dataset.get('annotations', []), self.dataset.setdefault('categories', [])
            for item, key in [*((c, 'id') for c in categories), *((a, 'category_id') for a in annotations)]:
                item[key] = category_id(item.get(key))
            ids = {a.get('id') for a in annotations}
            keep = len(ids) == len(annotations) and all(isinstance(i, int) and i for i in ids)
            for number, a in enumerate(annotations, 1):
                a.update(id=a['id'] if keep else number, iscrowd=a.get('iscrowd') or 0)
                if parts := polygons(a.get('segmentation')):
                    a['segmentation'] = parts
            create_index(self)
        return create
    replace_once(COCO, 'createIndex', completed)


def name_classes_in_order() -> None:
    """mmdet 3.3.0: ``CocoMetric(classwise=True)`` writes the AP of one class beside the name of another where ids of
    categories do not ascend in the file.

    pycocotools sorts the ids, and mmdet reads its results in the file's order. No report of it was found upstream.
    The class that mmdet evaluates with gives them in that order.
    """
    from mmdet.evaluation.metrics import coco_metric
    if coco_metric.COCOeval.__module__ == __name__:
        return

    class InOrder(coco_metric.COCOeval):
        def accumulate(self, p=None) -> None:
            super().accumulate(p)
            ids = list(self.params.catIds)
            order = [ids.index(c['id']) for c in self.cocoGt.dataset['categories'] if c['id'] in ids]
            if self.params.useCats:
                self.eval.update(precision=self.eval['precision'][:, :, order], recall=self.eval['recall'][:, order],
                                 scores=self.eval['scores'][:, :, order])

    coco_metric.COCOeval = InOrder


def category_id(value: object) -> object:
    """The id of a category, as an integer where it is one that is written as text or as a float."""
    text = isinstance(value, str) and value.removeprefix('-').isdecimal()
    return int(value) if text or isinstance(value, float) and value.is_integer() else value


def polygons(segmentation: object) -> list[list]:
    """The parts of a mask that mmdet trains on: those with an even number of coordinates, of three points or more."""
    parts = segmentation if isinstance(segmentation, list) else []
    return [part for part in parts if isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0]


def draw_images_of_any_layout() -> None:
    """mmseg 1.2.2: ``browse_dataset`` fails: ``Layout of the output array img is incompatible with cv::Mat``
    (open-mmlab/mmsegmentation#3405, open).

    It gives ``SegLocalVisualizer`` an image whose channels are first in memory, and OpenCV is to draw on an array of
    that layout. An image with channels last is drawn as it is. mmseg is not imported for it.
    """
    if 'mmseg' not in sys.modules:
        return
    from mmseg.visualization import SegLocalVisualizer
    replace_once(SegLocalVisualizer, '_draw_sem_seg', lambda draw: (
        lambda self, image, *args, **kwargs: draw(self, np.ascontiguousarray(image), *args, **kwargs)))


def transformers_has(names: tuple[str, ...]) -> bool:
    """Whether transformers is not there, or its ``modeling_utils`` knows all names; it is read and not imported."""
    spec = find_spec('transformers')
    if spec is None or not spec.submodule_search_locations:
        return True
    file = Path(spec.submodule_search_locations[0], 'modeling_utils.py')
    text = file.read_text(encoding='utf-8') if file.is_file() else ''
    return all(name in text for name in names)


def replace_once(owner: object, name: str, make: Callable[[Callable], Callable]) -> None:
    """Replaces a function by what ``make`` makes of it; it is left if it has been."""
    function = getattr(owner, name)
    if not hasattr(function, '__wrapped__'):
        setattr(owner, name, functools.wraps(function)(make(function)))


def start_processes_on_cpus() -> None:
    """mmengine 0.10.7: launchers fail on a machine without a GPU: ``torch._C has no attribute '_cuda_setDevice'``.

    ``dist/utils.py`` calls ``torch.cuda.set_device`` whatever the backend, and ``runner.py`` and ``_strategy`` give
    ``DistributedDataParallel`` the number of a device. Without a GPU, processes use gloo in place of NCCL, no number is
    given, and batch norm, which torch synchronises on GPUs alone, is that of each process. No report of it was found
    upstream.
    """
    import torch
    from mmengine.device import get_device
    from mmengine.dist import utils
    from mmengine.logging import print_log
    from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
    if get_device() != 'cpu':
        return

    def start_on_cpus(start: Callable) -> Callable:
        def started(backend: str, **kwargs) -> None:
            set_device, torch.cuda.set_device = torch.cuda.set_device, lambda device: None
            try:
                start('gloo' if backend == 'nccl' else backend, **kwargs)
            finally:
                torch.cuda.set_device = set_device
            if utils.is_main_process():
                print_log(f'no GPU was found: {utils.get_world_size()} processes use the CPU and '
                          f'{utils.get_backend()}; batch norm is not synchronised', 'current', logging.WARNING)
        return started
    for launcher in ('pytorch', 'mpi', 'slurm'):
        replace_once(utils, f'_init_dist_{launcher}', start_on_cpus)
    replace_once(MMDistributedDataParallel, '__init__', lambda init: (
        lambda self, module, **kwargs: init(self, revert_sync_batchnorm(module), **dict(kwargs, device_ids=None))))


def find_unused_parameters_everywhere() -> None:
    """mmengine 0.10.7: ``find_unused_parameters=True`` at the top level of a config, which its threads advise, does
    nothing beside ``model_wrapper_cfg`` (``runner/runner.py``, ``wrap_model``) or a strategy.

    Here it reaches any ``DistributedDataParallel`` that ``model_wrapper_cfg`` or ``strategy.model_wrapper`` describes.
    No report of it was found upstream.
    """
    from mmengine.registry import MODEL_WRAPPERS
    from mmengine.runner import Runner
    from mmengine.runner._flexible_runner import FlexibleRunner
    from torch.nn.parallel import DistributedDataParallel

    def completed(runner, wrapper: dict | None) -> dict | None:
        if not wrapper or not runner.cfg.get('find_unused_parameters') or not issubclass(
                MODEL_WRAPPERS.get(wrapper.get('type', 'MMDistributedDataParallel')), DistributedDataParallel):
            return wrapper
        return dict(wrapper, find_unused_parameters=True)

    def completed_strategy(build: Callable) -> Callable:
        def built(self, *args, **kwargs):
            strategy = build(self, *args, **kwargs)
            if hasattr(strategy, 'model_wrapper'):
                strategy.model_wrapper = completed(self, strategy.model_wrapper)
            return strategy
        return built
    replace_once(Runner, 'wrap_model', lambda wrap: (
        lambda self, wrapper, model: wrap(self, completed(self, wrapper), model)))
    replace_once(FlexibleRunner, 'build_strategy', completed_strategy)


def silence_torchvision() -> None:
    """torchvision 0.15.2: beside a newer torch, where it is the one that can be imported, it warns that its reader of
    images cannot be loaded, which no host uses, and of names that are still beta: as if the installation were broken.
    """
    for text in 'Failed to load image Python extension', 'The torchvision.datapoints and torchvision.transforms.v2':
        warnings.filterwarnings('ignore', text, UserWarning)


def count_fused_attention() -> None:
    """mmengine 0.10.7: ``get_flops`` counts torch's ``scaled_dot_product_attention``, of the neck of HTC++, as zero.

    Its handles, which PR open-mmlab/mmengine#779 brought, have no public names; no issue is known. One that is there
    stays. If they stand elsewhere, there is a warning. Window attention needs none: it is the formula under
    ``torch.jit.trace``, by which MMEngine counts.
    """
    from mmengine.analysis import complexity_analysis
    from mmengine.analysis.jit_handles import generic_activation_jit, get_shape

    def macs(inputs: list, outputs: list) -> int:
        """Multiply-accumulates of logits and of the sum over values."""
        *_, n, d = get_shape(inputs[0])
        *batch, m, e = get_shape(inputs[2])
        return prod(batch) * n * m * (d + e)

    tables = [getattr(complexity_analysis, f'_DEFAULT_SUPPORTED_{kind}_OPS', None) for kind in ('FLOP', 'ACT')]
    if None in tables:
        warnings.warn("get_flops counts torch's fused attention as zero: this MMEngine has its handles elsewhere",
                      stacklevel=2)
        return
    for table, count in zip(tables, (macs, generic_activation_jit())):
        table.setdefault('aten::scaled_dot_product_attention', count)
