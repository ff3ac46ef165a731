"""Parameter groups for a model with a SwinV2 backbone: layer-wise learning rates, and exemptions from weight decay."""
from __future__ import annotations

import inspect

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as ROOT_OPTIM_WRAPPER_CONSTRUCTORS
from torch import Tensor, nn

from ..registry import OPTIM_WRAPPER_CONSTRUCTORS

NO_DECAY = ('logit_scale', 'cpb_mlp', 'relative_position_bias_table')


@ROOT_OPTIM_WRAPPER_CONSTRUCTORS.register_module()
@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class SwinOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Builds an optimizer with one parameter group per pair of learning rate and weight decay.

    Biases and norms (all 1-D parameters), ``logit_scale``, ``cpb_mlp`` and the table of a parameterised position bias
    have no weight decay.

    Args:
        optim_wrapper_cfg: As for mmengine's constructor.
        paramwise_cfg: May have ``backbone_lr_mult``, a factor on the backbone's learning rate (default 1), and
            ``layer_decay_rate`` (default 1), by which the learning rate shrinks from each layer of the backbone to
            the one before it. Every module with ``get_layer_depth(param_name, prefix)`` is a backbone, whatever its
            name in the model and whatever wraps it. ``merging_layers=False`` (default True) gives a patch merging the
            layer of the block before it, as the release does when it fine-tunes SimMIM. ``no_decay`` replaces the parts
            of names that exempt a parameter (default: the last three above).

    Raises:
        ValueError: if ``paramwise_cfg`` has another key, a rate is not in (0, 1], or one other than 1 is given for a
            model without a backbone.

    Source:
        SwinTransformer/MIM-Depth-Estimation and AiT, ``SwinLayerDecayOptimizerConstructor`` (numbering of layers);
        microsoft/Swin-Transformer, ``no_weight_decay_keywords``.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        rates = dict(backbone_lr_mult=1., layer_decay_rate=1.)
        options = dict(merging_layers=True, no_decay=NO_DECAY)
        unknown = sorted(set(paramwise_cfg or {}) - set(rates) - set(options))
        if unknown:
            raise ValueError(f'paramwise_cfg must have no key but {", ".join([*rates, *options])}, got {unknown}')
        given = {**rates, **options, **(paramwise_cfg or {})}
        for name in rates:
            value = given[name]
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
                raise ValueError(f'paramwise_cfg.{name} must be a number in (0, 1], got {value!r}')
        super().__init__(optim_wrapper_cfg,
                         paramwise_cfg={k: v for k, v in given.items() if v != (rates | options)[k]} or None)
        self.options = given

    def __call__(self, model: nn.Module):
        """Builds the optimizer wrapper."""
        self.paramwise_cfg = self.options  # never empty: the grouping below always applies
        return super().__call__(model)

    def add_params(self, params: list[dict], module: nn.Module, **kwargs) -> None:
        """Appends the parameter groups of a whole model to ``params``."""
        scales, groups = self._backbone_scales(module), {}
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            scale = scales.get(param, 1.)
            no_decay = param.ndim <= 1 or any(key in name for key in self.options['no_decay'])
            decay = 0. if no_decay else self.base_wd or 0.
            group = groups.setdefault((scale, decay), dict(params=[], weight_decay=decay))
            if self.base_lr is not None:
                group['lr'] = self.base_lr * scale
            group['params'].append(param)
        for (scale, decay), group in groups.items():
            print_log(f'SwinOptimWrapperConstructor: {len(group["params"])} parameters, '
                      f'learning rate x {scale:.4g}, weight decay {decay:.4g}', logger='current')
        params.extend(groups.values())

    def _backbone_scales(self, model: nn.Module) -> dict[Tensor, float]:
        """The factor on the learning rate of each trainable parameter of a backbone, where one is not 1."""
        mult, decay = self.options['backbone_lr_mult'], self.options['layer_decay_rate']
        if mult == decay == 1:
            return {}
        # the innermost: mmpretrain's LoRAModel hands names with its own prefix on
        backbones = [m for m in model.modules() if [n for n in m.modules() if _is_backbone(n)] == [m]]
        if not backbones:
            raise ValueError('paramwise_cfg must have no rate but 1 for a model without SwinV2, got '
                             f'backbone_lr_mult={mult}, layer_decay_rate={decay} for {type(model).__name__}')
        options = {} if self.options['merging_layers'] else dict(merging_layers=False)
        scales = {}
        for backbone in backbones:
            for name, param in backbone.named_parameters():
                if param.requires_grad:
                    depth, layers = backbone.get_layer_depth(name, **options)
                    scales[param] = mult * decay**(layers - 1 - depth)
        return scales


def _is_backbone(module: nn.Module) -> bool:
    """Whether a module is a backbone: wrappers hand attributes on, and a classifier's method has no prefix."""
    method = getattr(type(module), 'get_layer_depth', None)
    return method is not None and 'prefix' in inspect.signature(method).parameters
