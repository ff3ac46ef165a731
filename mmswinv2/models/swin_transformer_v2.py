"""The backbone as an MMEngine module: ``type='mmswinv2.SwinTransformerV2'``, or unprefixed."""
from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..hosts import require

require('mmengine', 'mmswinv2.models')

import torch  # noqa: E402
from mmengine import dist  # noqa: E402
from mmengine.logging import print_log  # noqa: E402
from mmengine.model import BaseModule  # noqa: E402
from mmengine.registry import MODELS as ROOT_MODELS  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from .. import core  # noqa: E402
from ..core.weights import files, find_prefix, fit_state, load_backbone, read_backbone_state  # noqa: E402
from ..registry import MODELS  # noqa: E402


def read_file(name: str) -> Mapping:
    """Reads a checkpoint without running code that it may hold; a URL is fetched once per node and kept by torch.hub.

    Args:
        name: A file, or a URL that begins with http:// or https://.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no checkpoint, or holds objects other than weights.
    """
    if not name.startswith(('http://', 'https://')):
        return files.read_file(name)
    path = Path(torch.hub.get_dir(), 'checkpoints', Path(name.partition('?')[0]).name)
    # nodes need not share a home; each of mmengine's launchers sets LOCAL_RANK, and torch.hub moves a file in whole
    if int(os.environ.get('LOCAL_RANK', dist.get_rank())) == 0 and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(name, str(path))
    dist.barrier()
    return files.read_file(path)


@ROOT_MODELS.register_module()
@MODELS.register_module()
class SwinTransformerV2(core.SwinTransformerV2, BaseModule):
    """Swin Transformer V2 for MMDetection and MMSegmentation.

    Arguments, shapes and errors are those of :class:`mmswinv2.core.SwinTransformerV2`, and

    Args:
        init_cfg: ``dict(type='Pretrained', checkpoint=FILE_OR_URL[, prefix='backbone.'])``, or None for the
            initialisation of the release. The file may be in any known layout (``docs/checkpoints.md``). Every
            weight of the backbone must be in it and every weight of a backbone in it must be used, but for norms of
            outputs, a classifier's head and derived buffers. With ``checkpoint=None`` a recipe asks for weights that
            are still to be named: it can be tested, and is an error in training.
        autocast_dtype: ``'bfloat16'`` or ``'float16'``: mixed precision in the backbone alone; weights, outputs and the
            rest of the model keep theirs, so that boxes do not lose precision. float16 needs a loss scale, as
            mmengine's ``AmpOptimWrapper`` has.

    Raises:
        ValueError: if ``init_cfg`` is of another type, the file does not fit, or ``autocast_dtype`` is another.
    """

    def __init__(self, arch: str | Mapping = 'tiny', *, init_cfg: Mapping | None = None,
                 autocast_dtype: str | None = None, **kwargs) -> None:
        if autocast_dtype not in (None, 'bfloat16', 'float16'):
            raise ValueError(f'autocast_dtype must be None, bfloat16 or float16, got {autocast_dtype!r}')
        if init_cfg is not None and (not isinstance(init_cfg, Mapping) or init_cfg.get('type') != 'Pretrained'
                                     or not isinstance(init_cfg.get('checkpoint', 0), (str, Path, type(None)))
                                     or not isinstance(init_cfg.get('prefix', ''), str)
                                     or set(init_cfg) - {'type', 'checkpoint', 'prefix'}):
            raise ValueError("init_cfg must be dict(type='Pretrained', checkpoint='...') and may have prefix='...', "
                             f'got {init_cfg!r}')
        super().__init__(arch, **kwargs)
        # BaseModule.__init__ ran through the core's super().__init__(); only its init_cfg is set here
        self.init_cfg = None if init_cfg is None else dict(init_cfg)
        self.autocast_dtype = None if autocast_dtype is None else getattr(torch, autocast_dtype)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps images (B, C, H, W) to a map (B, C_i, H_i, W_i) per output, in float32 under mixed precision."""
        if self.autocast_dtype is None:
            return super().forward(x)
        # each weight is cast once per pass: a cache would only keep all 16-bit copies until the end of the backbone
        with torch.autocast(x.device.type, dtype=self.autocast_dtype, cache_enabled=False):
            return super().forward(x)

    def init_weights(self) -> None:
        """Loads the weights of ``init_cfg``, strictly; without one the weights stay as constructed.

        Raises:
            ValueError: if ``init_cfg`` names no file yet, or the file holds no backbone, or its keys or shapes do not
                fit.
        """
        if self._is_init:
            return
        if self.init_cfg is None:
            print_log('SwinTransformerV2: random weights (init_cfg=None), where load_from or resume brings no others',
                      logger='current')
        elif self.init_cfg['checkpoint'] is None:
            raise ValueError('init_cfg.checkpoint must name the weights to begin with, a file or URL, got None. After '
                             '--cfg-options: model.backbone.init_cfg.checkpoint=FILE, or model.backbone.init_cfg=None '
                             'to begin with random ones')
        else:
            name = str(self.init_cfg['checkpoint'])
            checkpoint = read_file(name)
            try:
                loaded = load_backbone(self, read_backbone_state(checkpoint, prefix=self.init_cfg.get('prefix')))
            except ValueError as e:
                raise ValueError(f'init_cfg: {name}: {e}') from e
            print_log(f'SwinTransformerV2: loaded {loaded} from {name}', logger='current')
        self._is_init = True


def accept_known_layouts(module: nn.Module, state_dict: dict, prefix: str, *args) -> None:
    """A pre-hook of ``load_state_dict`` of a model with this backbone: what ``load_from`` gives may be in any layout.

    Weights of the backbone are put in its own names; a file of a backbone alone, in any container, is taken for
    that. Where they do not fit there is an error: mmengine would only log it. A state dict of other parts of the
    model, without any weight of a backbone, is left to the loader.

    Raises:
        ValueError: if the backbone's weights are not all there, are others, or nothing in the file is the model's.
    """
    for name, child in module.named_children():
        if not isinstance(child, SwinTransformerV2):
            continue
        begin = f'{prefix}{name}.'
        inside = {k[len(begin):]: v for k, v in state_dict.items() if k.startswith(begin)}
        if not inside and prefix:
            continue
        try:
            found = read_backbone_state(inside or dict(state_dict))
            taken, text = fit_state(child, found)
        except ValueError as e:
            if not inside and not _has_backbone(state_dict) and not state_dict.keys().isdisjoint(module.state_dict()):
                continue
            raise ValueError(f'{type(child).__name__} ({begin[:-1]}): {e}') from e
        if not taken.keys() <= inside.keys():
            print_log(f'{type(child).__name__} ({begin[:-1]}): loading {text}', logger='current')
            for key in list(state_dict):
                if not inside or key.startswith(begin):
                    del state_dict[key]
            state_dict.update({begin + k: v for k, v in taken.items()})


def _has_backbone(state_dict: dict) -> bool:
    """Whether there is a patch embedding somewhere in a file."""
    try:
        find_prefix(state_dict)
    except ValueError:
        return False
    return True


def _watch_registration(parent: nn.Module, name: str, child: nn.Module) -> None:
    """Gives a module the pre-hook above when a backbone becomes its child."""
    if isinstance(child, SwinTransformerV2):
        # with a public name from torch 2.5 on
        parent._register_load_state_dict_pre_hook(accept_known_layouts, with_module=True)


torch.nn.modules.module.register_module_module_registration_hook(_watch_registration)
