"""Parameter groups for a model with a SwinV2 backbone: layer-wise decay, and what has no weight decay."""
from __future__ import annotations

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as ROOT_OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..registry import OPTIM_WRAPPER_CONSTRUCTORS

NO_DECAY = ('logit_scale', 'cpb_mlp', 'relative_position_bias_table')


@ROOT_OPTIM_WRAPPER_CONSTRUCTORS.register_module()
@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class SwinOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Builds an optimizer with few groups: one for each learning rate with and without weight decay.

    Biases, norms (all parameters of one axis), ``logit_scale``, ``cpb_mlp`` and the table of a parameterised
    position bias have no weight decay.

    Args:
        optim_wrapper_cfg: As for mmengine's constructor.
        paramwise_cfg: May have ``backbone_lr_mult``, a factor on the backbone's learning rate (default 1), and
            ``layer_decay_rate`` (default 1), by which the learning rate shrinks from each layer of the backbone to
            the one before it. ``model.backbone`` must have ``get_layer_depth``.

    Raises:
        ValueError: if ``paramwise_cfg`` has another key, or a value is not in (0, 1].

    Source:
        SwinTransformer/MIM-Depth-Estimation and AiT, ``SwinLayerDecayOptimizerConstructor`` (numbering of layers);
        microsoft/Swin-Transformer, ``no_weight_decay_keywords``.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        rates = dict(backbone_lr_mult=1., layer_decay_rate=1.)
        unknown = sorted(set(paramwise_cfg or {}) - set(rates))
        if unknown:
            raise ValueError(f'paramwise_cfg must have no key but {", ".join(rates)}, got {unknown}')
        rates.update(paramwise_cfg or {})
        for name, value in rates.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
                raise ValueError(f'paramwise_cfg.{name} must be a number in (0, 1], got {value!r}')
        super().__init__(optim_wrapper_cfg, paramwise_cfg={k: v for k, v in rates.items() if v != 1} or None)
        self.rates = rates

    def __call__(self, model: nn.Module):
        """Builds the optimizer wrapper."""
        self.paramwise_cfg = self.rates  # never empty: the grouping below always applies
        return super().__call__(model)

    def add_params(self, params: list[dict], module: nn.Module, **kwargs) -> None:
        """Appends the parameter groups of a whole model to ``params``."""
        groups: dict[tuple[float, float], dict] = {}
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            scale = 1.
            if name.startswith('backbone.'):
                depth, num_layers = module.backbone.get_layer_depth(name, prefix='backbone.')
                scale = self.rates['backbone_lr_mult'] * self.rates['layer_decay_rate']**(num_layers - 1 - depth)
            decay = 0. if param.ndim <= 1 or any(key in name for key in NO_DECAY) else self.base_wd or 0.
            group = groups.setdefault((scale, decay), dict(params=[], weight_decay=decay))
            if self.base_lr is not None:
                group['lr'] = self.base_lr * scale
            group['params'].append(param)
        for (scale, decay), group in groups.items():
            print_log(f'SwinOptimWrapperConstructor: {len(group["params"])} parameters, '
                      f'learning rate x {scale:.4g}, weight decay {decay:.4g}', logger='current')
        params.extend(groups.values())
