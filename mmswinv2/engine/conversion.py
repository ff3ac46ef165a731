"""Weights in any known layout, on their way into a model: under a backbone's prefix, or a file of a backbone alone."""
from __future__ import annotations

from collections.abc import Collection, Mapping

from mmengine.hooks import Hook
from mmengine.logging import print_log
from torch import Tensor, nn

from .. import core
from ..core.checks import first
from ..core.weights import find_prefix, fit_state, read_backbone_state
from ..core.weights.state import CONTAINERS
from ..registry import HOOKS


def convert_state(backbone: nn.Module, state_dict: dict, prefix: str) -> None:
    """Puts the weights under a backbone's prefix into the backbone's own names, in place.

    Args:
        backbone: A :class:`mmswinv2.core.SwinTransformerV2`.
        state_dict: Of its model.
        prefix: Where the backbone is in the model, such as ``'backbone.'``.

    Raises:
        ValueError: if they are not all there, are others, or are in no known layout; ``state_dict`` stays as it is.
    """
    inside = {k[len(prefix):]: v for k, v in state_dict.items() if k.startswith(prefix)}
    taken, text = _fit(backbone, inside, prefix)
    if taken.keys() <= inside.keys():
        return
    print_log(text, logger='current')
    for name in inside:
        del state_dict[prefix + name]
    state_dict.update({prefix + k: v for k, v in taken.items()})


def _fit(backbone: nn.Module, weights: Mapping, prefix: str) -> tuple[dict[str, Tensor], str]:
    """What a backbone takes of weights in any known layout, and a line for the log."""
    name = _name(backbone, prefix)
    try:
        taken, text = fit_state(backbone, read_backbone_state(weights))
    except ValueError as e:
        raise ValueError(f'{name}: {e}') from e
    return taken, f'{name}: loading {text}'


def convert_on_load(backbone: nn.Module, state_dict: dict, prefix: str, unexpected: Collection[str]) -> None:
    """What a backbone does first in ``_load_from_state_dict``, whoever loads.

    Weights of the backbone's own names are left to torch where it is loaded by itself. A part of a model gets all of
    its weights, or none where the state dict is one of other parts: mmengine would only log what is missing.

    Args:
        backbone: A :class:`mmswinv2.core.SwinTransformerV2`.
        state_dict: What is loaded, at least all under ``prefix``; changed in place.
        prefix: Where the backbone is in the model that is loaded.
        unexpected: Names in the file for which the parents have no place.

    Raises:
        ValueError: if the weights do not fit, or there are none for the backbone and the file has names that nothing in
            the model has, as that of a backbone alone.
    """
    if not any(k.startswith(prefix) for k in state_dict):
        if unexpected:
            raise ValueError(
                f'{_name(backbone, prefix)}: checkpoint must hold weights under {prefix!r}, got none, and '
                f'{len(unexpected)} names that the model does not have ({first(unexpected)}). Ways to load a file of a '
                "backbone alone: init_cfg=dict(type='Pretrained', checkpoint=FILE); load_from=FILE with default_hooks."
                "convert_checkpoint=dict(type='mmswinv2.ConvertCheckpointHook'); or, into a model that is there, "
                f'mmengine.runner.load_checkpoint(model.{prefix[:-1]}, FILE)')
    elif prefix or not state_dict.keys() <= backbone.state_dict().keys():
        convert_state(backbone, state_dict, prefix)


@HOOKS.register_module()
class ConvertCheckpointHook(Hook):
    """Lets ``load_from`` (and ``--resume``, ``mim test``) take weights in any layout, also a file of a backbone alone.

    MMEngine calls it with what it has read, before any weight is loaded. A state dict of other parts of the model,
    without any weight of a backbone, is left to the loader.

    Raises:
        ValueError: if a backbone's weights are not all there, are others, or nothing in the file is the model's:
            mmengine would only log it and go on with random weights.
    """

    priority = 'VERY_HIGH'  # before EMAHook takes its copy

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Converts, in place."""
        convert_checkpoint(runner.model, checkpoint)


def convert_checkpoint(model: nn.Module, checkpoint: dict) -> None:
    """Puts the weights of the backbones of a model, its direct children, into their names; see the hook.

    Args:
        model: Wrapped or not.
        checkpoint: What a file holds; changed in place.

    Raises:
        ValueError: as the hook; ``checkpoint`` stays as it is.
    """
    model = _unwrapped(model)
    held = checkpoint['state_dict'] if 'state_dict' in checkpoint else checkpoint
    names = {k: k.removeprefix('module.') for k in held}  # as mmengine's loader will
    state = {names[k]: v for k, v in held.items()}
    backbones = {f'{name}.': child for name, child in model.named_children()
                 if isinstance(child, core.SwinTransformerV2)}
    inside = [prefix for prefix in backbones if any(k.startswith(prefix) for k in state)]
    if inside:
        for prefix in inside:
            convert_state(backbones[prefix], state, prefix)
    elif backbones and (_has_backbone(state) or state.keys().isdisjoint(model.state_dict())):
        state = {}
        for prefix, backbone in backbones.items():
            taken, text = _fit(backbone, held, prefix)
            print_log(text, logger='current')
            state.update({prefix + k: v for k, v in taken.items()})
    if state.keys() == set(names.values()):
        return
    if held is checkpoint:
        for key in [k for k, v in checkpoint.items() if isinstance(v, Tensor) or k in CONTAINERS]:
            del checkpoint[key]
    checkpoint['state_dict'] = state


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model of the config: in no wrapper for distributed training or test-time augmentation."""
    while isinstance(inner := getattr(model, 'module', None), nn.Module):
        model = inner
    return model


def _has_backbone(state_dict: Mapping) -> bool:
    """Whether there is a patch embedding somewhere in a file."""
    try:
        find_prefix(state_dict)
    except ValueError:
        return False
    return True


def _name(backbone: nn.Module, prefix: str) -> str:
    return f'{type(backbone).__name__} ({prefix[:-1]})' if prefix else type(backbone).__name__
