"""The backbone as an MMEngine module: ``type='mmswinv2.SwinTransformerV2'``, or unprefixed."""
from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

from ..hosts import require

require('mmengine', 'mmswinv2.models')

import torch  # noqa: E402
from mmengine import dist  # noqa: E402
from mmengine.logging import print_log  # noqa: E402
from mmengine.model import BaseModule  # noqa: E402
from mmengine.registry import MODELS as ROOT_MODELS  # noqa: E402

from .. import core  # noqa: E402
from ..core.checkpoint import load_backbone, read_backbone_state  # noqa: E402
from ..registry import MODELS  # noqa: E402


def read_file(name: str) -> Mapping:
    """Reads a checkpoint without running code that it may hold; a URL is downloaded once and kept by torch.hub.

    Args:
        name: A file, or a URL that begins with http:// or https://.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no checkpoint, or holds objects other than weights.
    """
    try:
        if name.startswith(('http://', 'https://')):
            def load():
                return torch.hub.load_state_dict_from_url(name, map_location='cpu', weights_only=True)
            if dist.get_rank() == 0:
                checkpoint = load()
            dist.barrier()
            return checkpoint if dist.get_rank() == 0 else load()
        return torch.load(Path(name).expanduser(), map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as e:
        raise ValueError(f'checkpoint must be a file of weights that torch.load reads with weights_only=True, '
                         f'got {name}: {str(e).splitlines()[0] if str(e) else type(e).__name__}') from e


@ROOT_MODELS.register_module()
@MODELS.register_module()
class SwinTransformerV2(core.SwinTransformerV2, BaseModule):
    """Swin Transformer V2 for MMDetection and MMSegmentation.

    Arguments, shapes and errors are those of :class:`mmswinv2.core.SwinTransformerV2`, and

    Args:
        init_cfg: ``dict(type='Pretrained', checkpoint=FILE_OR_URL[, prefix='backbone.'])``, or None for the
            initialisation of the release. Every weight of the backbone must be in the file and every weight of a
            backbone in the file must be used, but for norms of outputs, a classifier's head and derived buffers.

    Raises:
        ValueError: if ``init_cfg`` is of another type, or the file does not fit.
    """

    def __init__(self, arch: str | Mapping = 'tiny', *, init_cfg: Mapping | None = None, **kwargs) -> None:
        if init_cfg is not None and (not isinstance(init_cfg, Mapping) or init_cfg.get('type') != 'Pretrained'
                                     or 'checkpoint' not in init_cfg
                                     or set(init_cfg) - {'type', 'checkpoint', 'prefix'}):
            raise ValueError("init_cfg must be dict(type='Pretrained', checkpoint=...) and may have prefix, "
                             f'got {init_cfg!r}')
        super().__init__(arch, **kwargs)
        # BaseModule.__init__ ran through the core's super().__init__(); only its init_cfg is set here
        self.init_cfg = None if init_cfg is None else dict(init_cfg)

    def init_weights(self) -> None:
        """Loads the weights of ``init_cfg``, strictly; without one the weights stay as constructed.

        Raises:
            ValueError: if the file holds no backbone, or its keys or shapes do not fit.
        """
        if self._is_init:
            return
        if self.init_cfg is not None:
            name = self.init_cfg['checkpoint']
            checkpoint = read_file(name)
            try:
                loaded = load_backbone(self, read_backbone_state(
                    checkpoint, num_stages=len(self.layers), prefix=self.init_cfg.get('prefix')))
            except ValueError as e:
                raise ValueError(f'init_cfg: {name}: {e}') from e
            print_log(f'SwinTransformerV2: loaded {loaded} from {name}', logger='current')
        self._is_init = True
