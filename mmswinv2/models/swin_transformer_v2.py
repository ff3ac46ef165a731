"""The backbones as MMEngine modules: ``type='mmswinv2.SwinTransformerV2'``, or unprefixed."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor

from .. import core
from ..core.torch_compat import autocast_to, check_autocast_dtype
from ..core.weights import ADAPTATIONS, adapt_in_channels, load_backbone, read_backbone_state
from ..engine.loading import convert_for_classifier, convert_on_load, read_named
from ..registry import MODELS


@ROOT_MODELS.register_module()
@MODELS.register_module()
class SwinTransformerV2(core.SwinTransformerV2, BaseModule):
    """Swin Transformer V2 for MMDetection, MMSegmentation and MMPretrain.

    Arguments, shapes and errors are those of :class:`mmswinv2.core.SwinTransformerV2`, and

    Args:
        init_cfg: ``dict(type='Pretrained', checkpoint=FILE_OR_URL[, prefix='backbone.'][, adapt_in_channels='sum'])``,
            or None for the initialisation of the release. Nothing is drawn at random for weights that a file brings.
            The file may be in any known layout (``docs/checkpoints.md``). It must hold every weight of the backbone,
            and each of its backbone weights must be used. Output norms, a classifier's head and derived buffers are
            exempt. ``checkpoint=None`` means that the weights are still to be named: such a recipe can be tested, and
            is an error in training. ``adapt_in_channels`` (``'sum'``, ``'mean'`` or ``'repeat'``) is for images with
            other channels than the file's; see :func:`mmswinv2.core.weights.adapt_in_channels`.
        autocast_dtype: ``'bfloat16'`` or ``'float16'``: mixed precision in the backbone alone. Weights, outputs and the
            rest of the model keep their dtype, so boxes do not lose precision. float16 needs a loss scale, as
            mmengine's ``AmpOptimWrapper`` has.

    Raises:
        ValueError: if ``init_cfg`` is of another type, the file does not fit, or ``autocast_dtype`` is another.
    """

    def __init__(self, arch: str | Mapping = 'tiny', *, init_cfg: Mapping | None = None,
                 autocast_dtype: str | None = None, **kwargs) -> None:
        dtype = check_autocast_dtype(autocast_dtype)
        if init_cfg is not None and (not isinstance(init_cfg, Mapping) or init_cfg.get('type') != 'Pretrained'
                                     or not isinstance(init_cfg.get('checkpoint', 0), (str, Path, type(None)))
                                     or not isinstance(init_cfg.get('prefix', ''), str)
                                     or init_cfg.get('adapt_in_channels') not in (None, *ADAPTATIONS)
                                     or set(init_cfg) - {'type', 'checkpoint', 'prefix', 'adapt_in_channels'}):
            raise ValueError("init_cfg must be dict(type='Pretrained', checkpoint='...') and may have prefix='...' and "
                             f'adapt_in_channels, one of {", ".join(ADAPTATIONS)}, got {init_cfg!r}; where a config '
                             'inherits it from another backbone, _delete_=True in its backbone=dict(...) leaves it out')
        if init_cfg is None:
            super().__init__(arch, **kwargs)
        else:  # weights that a file brings are not drawn at random before, which takes a minute for SwinV2-G
            device = torch.empty(0).device
            with torch.device('meta'):
                super().__init__(arch, **kwargs)
            self.to_empty(device=device)
            core.SwinTransformerV2.reset_parameters(self, draw=False)
        # BaseModule.__init__ ran through the core's super().__init__(); only its init_cfg is set here
        self.init_cfg = None if init_cfg is None else dict(init_cfg)
        self.autocast_dtype = dtype

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps images (B, C, H, W) to a map (B, C_i, H_i, W_i) per output, in float32 under mixed precision."""
        with autocast_to(x.device, self.autocast_dtype):
            return super().forward(x)

    def init_weights(self) -> None:
        """Loads the weights of ``init_cfg``, strictly; without one the weights stay as constructed.

        Raises:
            ValueError: if ``init_cfg`` names no file yet, or the file holds no backbone, or its keys or shapes do not
                fit; if the ``init_cfg`` of the model around it has set the residual norms.
        """
        if self._is_init:
            return
        if self.init_cfg is None:
            self._check_residual_norms()
            print_log(f'{type(self).__name__}: random weights (init_cfg=None), where load_from or resume brings no '
                      'others', logger='current')
        elif self.init_cfg['checkpoint'] is None:
            raise ValueError('init_cfg.checkpoint must name the weights to begin with, a file or URL, got None. After '
                             '--cfg-options: model.backbone.init_cfg.checkpoint=FILE, or model.backbone.init_cfg=None '
                             'to begin with random ones')
        else:
            name = str(self.init_cfg['checkpoint'])
            checkpoint = read_named(name)
            try:
                found = read_backbone_state(checkpoint, prefix=self.init_cfg.get('prefix'))
                if self.init_cfg.get('adapt_in_channels') is not None:
                    found = adapt_in_channels(found, self.config.in_channels, self.init_cfg['adapt_in_channels'])
                loaded = load_backbone(self, found)
            except ValueError as e:
                raise ValueError(f'init_cfg: {name}: {e}') from e
            print_log(f'{type(self).__name__}: loaded {loaded} from {name}', logger='current')
        self._is_init = True

    def _check_residual_norms(self) -> None:
        """Checks that residual post-norms are still 0: a model's ``init_cfg`` runs first and reaches into children."""
        for name, module in self.named_modules():
            if isinstance(module, core.SwinBlock) and not self.config.norm_first:
                for norm in (module.norm1, module.norm2):
                    if norm.weight.numel() and norm.weight.any() and (norm.weight == norm.weight.flatten()[0]).all():
                        raise ValueError(
                            'init_cfg of the model must not set the LayerNorms of SwinTransformerV2, which start at 0 '
                            f'within blocks, got {norm.weight.flatten()[0].item():g} in {name}. Give init_cfg to the '
                            "head alone: head=dict(..., init_cfg=dict(type='TruncNormal', layer='Linear', std=.02))")

    def _checkpoint_filter(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                           error_msgs) -> None:
        """Converts files of a backbone alone, with their head; a hook that mmpretrain's models register themselves."""
        convert_for_classifier(self, state_dict, prefix)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                              error_msgs) -> None:
        """Converts weights of any known layout in ``state_dict``, before torch and mmengine hand it to children."""
        convert_on_load(self, state_dict, prefix, unexpected_keys)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                                      error_msgs)


@ROOT_MODELS.register_module()
@MODELS.register_module()
class VideoSwinTransformerV2(SwinTransformerV2, core.VideoSwinTransformerV2):
    """Swin Transformer V2 for MMAction2.

    Arguments, shapes and errors are those of :class:`mmswinv2.core.VideoSwinTransformerV2`, and ``init_cfg`` and
    ``autocast_dtype`` of :class:`SwinTransformerV2`; a file of a backbone on images is inflated as it is loaded.
    """

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Maps clips (B, C, t, h, w) to a map (B, C_i, T, H_i, W_i), or to a tuple of maps for several outputs.

        mmaction2's heads take a map and no tuple.
        """
        outs = super().forward(x)
        return outs[0] if len(outs) == 1 else outs
