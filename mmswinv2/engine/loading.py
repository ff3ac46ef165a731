"""Reads checkpoints of MMEngine's runner without running code, and converts weights of any known layout as they load.

The runner's message hub holds ``HistoryBuffer`` objects with numpy arrays, and methods of ``HistoryBuffer``, which
pickle writes as ``getattr(HistoryBuffer, name)``. These are allowed beside weights; ``getattr`` itself is not.
"""
from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from .. import core
from ..core.checks import check_bool, first
from ..core.weights import fit_state, read_backbone_state, read_rows, take_rows
from ..core.weights.files import NUMPYS, read_file
from ..core.weights.layouts.base import EXTRAS, OWN
from ..core.weights.read import backbones_in, bare, find_container
from ..registry import HOOKS

HEAD = 'head.fc.'  # of mmpretrain's linear heads
TABLE = '.relative_position_bias_table'  # which is resized to the window
URLS = ('http://', 'https://')


def history_buffer_method(owner: type, name: str):
    """Stands for ``getattr`` in a checkpoint: gives a statistics method of ``HistoryBuffer``, and nothing else.

    Raises:
        ValueError: if ``owner`` is not ``HistoryBuffer`` or ``name`` is not one of its public methods.
    """
    method = None
    if owner is HistoryBuffer and isinstance(name, str) and not name.startswith('_'):
        method = vars(HistoryBuffer).get(name)
    if not callable(method):
        raise ValueError(f'a checkpoint may name methods of HistoryBuffer only, got {owner!r}, {name!r}')
    return method


def safe_globals() -> dict[str, object]:
    """The objects in an MMEngine checkpoint that are not weights, by their names in a pickle."""
    array = np.zeros(1)
    reconstruct, scalar = array.__reduce__()[0], array[0].__reduce__()[0]
    types = [HistoryBuffer, np.ndarray, np.dtype]
    types += [type(np.dtype(code)) for code in np.typecodes['AllInteger'] + np.typecodes['Float'] + '?']
    allowed = {'builtins.getattr': history_buffer_method, **{f'{t.__module__}.{t.__qualname__}': t for t in types}}
    for module in NUMPYS:
        allowed |= {f'{module}_reconstruct': reconstruct, f'{module}scalar': scalar}
    return allowed


def read_run(path: str | os.PathLike) -> Mapping:
    """Reads a checkpoint, also one of MMEngine's runner, in any format that ``mmswinv2.core.weights.read_file`` knows.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, no checkpoint, or holds objects other than weights and the runner's.
    """
    return read_file(path, objects=safe_globals())


def read_named(name: str) -> Mapping:
    """Reads a checkpoint from a file or a URL; a URL is fetched once per node and kept by torch.hub.

    All processes call it for a URL.

    Args:
        name: A file, in which ``~`` is expanded, or a URL that begins with http:// or https://.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: as :func:`read_run`, if the URL cannot be fetched, or ``name`` is another URL.
    """
    if not name.startswith(URLS):
        if re.match(r'[\w-]+://', name):
            raise ValueError(f'checkpoint must be a file or a URL that begins with {" or ".join(URLS)}, got {name}; '
                             'where a config inherits it from another backbone, _delete_=True in its backbone=dict(...)'
                             ' leaves it out')
        return read_run(Path(name).expanduser())
    path = Path(torch.hub.get_dir(), 'checkpoints', Path(name.partition('?')[0]).name)
    ways = 'name a file in place of the URL (init_cfg.checkpoint=FILE, or load_from=FILE)'
    try:
        # nodes need not share a home; each of mmengine's launchers sets LOCAL_RANK, and torch.hub moves a file in whole
        if int(os.environ.get('LOCAL_RANK', dist.get_rank())) == 0 and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(name, str(path))
    except Exception as e:  # what a network raises is various
        raise ValueError(f'checkpoint must be a URL that can be fetched, got {name} ({type(e).__name__}: {e}). Put the '
                         f'file at {path}, where torch.hub keeps what it fetched, or {ways}') from e
    finally:
        dist.barrier()  # also if it failed: the other processes would wait
    try:
        return read_run(path)
    except (ValueError, FileNotFoundError) as e:
        raise ValueError(f'{e}; torch.hub keeps there what was fetched from {name}: remove it, so that it is fetched '
                         f'again, or {ways}') from e


def load(filename: str, map_location=None) -> Mapping:
    """A loader of files and URLs for MMEngine's ``CheckpointLoader``; tensors are on the CPU until a model has them."""
    return read_named(filename)


def read_local_files_safely() -> None:
    """Has MMEngine read files, fetched ones too, by the loader above: ``load_from``, ``--resume`` and ``mim test``.

    Under torch 2.6 and later, MMEngine's own loader cannot read its runner's files; under earlier versions it runs code
    in a file (mmengine 0.10.7, ``runner/checkpoint.py``; issue open-mmlab/mmengine#1655, open PR #1650). onedl-mmengine
    0.10.12 runs code in a file if reading weights only has failed (``_safe_torch_load``). Neither reads
    ``.safetensors`` or checks checksums. There is no release without these defects.
    """
    CheckpointLoader.register_scheme(['', *URLS], load, force=True)


def convert_state(backbone: nn.Module, state_dict: dict, prefix: str) -> None:
    """Renames the weights under a backbone's prefix in its model, such as ``'backbone.'``, to its own names, in place.

    Raises:
        ValueError: if weights are missing, unexpected, or in no known layout; ``state_dict`` stays unchanged.
    """
    inside = {k[len(prefix):]: v for k, v in state_dict.items() if k.startswith(prefix)}
    taken, _, text = _fit(backbone, inside, prefix)
    if all(inside.get(k) is v for k, v in taken.items()):
        return
    print_log(text, logger='current')
    for name in inside:
        del state_dict[prefix + name]
    state_dict.update({prefix + k: v for k, v in taken.items()})


def _fit(backbone: nn.Module, weights: Mapping, prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
    """The weights that a backbone takes, from any layout, a head in mmpretrain's names, and a line for the log."""
    name = _name(backbone, prefix)
    try:
        found = read_backbone_state(weights)
        taken, text = fit_state(backbone, found)
    except ValueError as e:
        raise ValueError(f'{name}: {e}') from e
    head = {f'{HEAD}{part}': found.extras[f'head.{part}'] for part in ('weight', 'bias')
            if f'head.{part}' in found.extras}
    return taken, head, f'{name}: loading {text}'


def convert_for_classifier(backbone: nn.Module, state_dict: dict, prefix: str) -> None:
    """Converts a classifier's file of any layout; mmpretrain's models call it before they load a state dict.

    Args:
        backbone: The model's child ``backbone``.
        state_dict: Changed in place, if it holds a backbone and no name of that child. It may be the whole contents of
            a file: mmengine takes weights from under ``state_dict`` alone.
        prefix: Of the model in the state dict.

    Raises:
        ValueError: if weights of the backbone are missing or unexpected.
    """
    inside = {k[len(prefix):]: v for k, v in state_dict.items() if k.startswith(prefix)}
    if any(k.startswith('backbone.') for k in inside) or len(backbones_in(find_container(inside)[0])) != 1:
        return
    taken, head, text = _fit(backbone, inside, f'{prefix}backbone.')
    print_log(text, logger='current')
    for name in inside:
        del state_dict[prefix + name]
    state_dict.update({f'{prefix}backbone.{k}': v for k, v in taken.items()})
    state_dict.update({f'{prefix}{k}': v for k, v in head.items()})


def fit_head(model: nn.Module, state: dict[str, Tensor], rows: str | None) -> None:
    """Chooses rows of a classifier's head, in place, if the model has another number of classes.

    Args:
        model: Its own head, if it has one, is ``head.fc``.
        state: State dict for the model.
        rows: A file of row numbers; see :func:`mmswinv2.core.weights.read_rows`.

    Raises:
        ValueError: if the numbers of classes differ and there is no file, or the file is for another number of classes:
            mmengine would only log this and leave the head random.
    """
    own = model.state_dict()
    names = {f'{HEAD}weight', f'{HEAD}bias'} & own.keys()
    head = {k: v for k, v in state.items() if k in names}
    if rows is not None and names and not head:
        raise ValueError(f'head_rows must be given for a checkpoint with a head, got one without, and {rows}')
    if all(len(v) == len(own[k]) for k, v in head.items()):
        return
    name, value = next(iter(head.items()))
    if rows is None:
        raise ValueError(
            f'{name} must have {len(own[name])} rows, one per class of the model, got {len(value)} in the checkpoint. '
            "Ways on: default_hooks.convert_checkpoint=dict(type='mmswinv2.ConvertCheckpointHook', head_rows=FILE), "
            f'FILE having {len(own[name])} row numbers (for ImageNet-22K to 1K: data/map22kto1k.txt of '
            "microsoft/Swin-Transformer); or model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...) and no "
            'load_from: the backbone alone, and a new head')
    chosen = read_rows(rows)
    if len(chosen) != len(own[name]):
        raise ValueError(f'head_rows must have {len(own[name])} row numbers, one per class of the model, got '
                         f'{len(chosen)} in {rows}')
    state.update(take_rows(head, chosen))
    print_log(f'{HEAD[:-1]}: {len(chosen)} of {len(value)} rows, as {rows} says', logger='current')


def convert_on_load(backbone: nn.Module, state_dict: dict, prefix: str, unexpected: Collection[str]) -> None:
    """Converts weights at the start of a backbone's ``_load_from_state_dict``, whoever loads.

    If the backbone is loaded by itself, weights with its own names and shapes are left to torch, and so are those of
    adapters, which may be saved without the weights beside them. Within a model, the backbone otherwise gets all of its
    weights, or none if the state dict is of other parts: mmengine would only log missing ones.

    Args:
        backbone: A :class:`mmswinv2.core.SwinTransformerV2`.
        state_dict: The loaded weights, at least all under ``prefix``; changed in place.
        prefix: Of the backbone in the model.
        unexpected: Names in the file for which the parents have no place.

    Raises:
        ValueError: if the weights do not fit, or if there are none for the backbone and the file has names that are not
            the model's, as a file of a backbone alone has.
    """
    own = backbone.state_dict()
    inside = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    fits = all(k in own and (v.shape == own[k].shape or k.endswith(TABLE)) for k, v in inside.items())
    if not inside:
        if unexpected:
            raise ValueError(
                f'{_name(backbone, prefix)}: checkpoint must hold weights under {prefix!r}, got none, and '
                f'{len(unexpected)} names that the model does not have ({first(unexpected)}). Ways to load a file of a '
                "backbone alone: init_cfg=dict(type='Pretrained', checkpoint=FILE); load_from=FILE with default_hooks."
                "convert_checkpoint=dict(type='mmswinv2.ConvertCheckpointHook'); or, into a model that is there, "
                f'mmengine.runner.load_checkpoint(model.{prefix[:-1]}, FILE)')
    elif not fits or prefix and all(OWN.fullmatch(k) or k in EXTRAS for k in inside):
        convert_state(backbone, state_dict, prefix)


@HOOKS.register_module()
class ConvertCheckpointHook(Hook):
    """Lets ``load_from`` (and ``--resume``, ``mim test``) take weights in any layout, also a file of a backbone alone.

    MMEngine calls it with the contents of a file, before any weight is loaded. A state dict of other parts of the
    model, without any weight of a backbone, is left to the loader. A classifier of mmpretrain gets its head too.

    Args:
        head_rows: A text file with a row number per class of the model, from 0: the rows that a classifier takes from
            the head of a file with another number of classes. One for ImageNet-22K to 1K is ``data/map22kto1k.txt`` of
            microsoft/Swin-Transformer.
        required: For a recipe that fine-tunes: whether training without a file in ``load_from`` is an error.

    Raises:
        ValueError: if a backbone's weights are missing or unexpected, nothing in the file is the model's, or a head has
            another number of classes: mmengine would only log this and go on with random weights.
    """

    priority = 'VERY_HIGH'  # before EMAHook takes its copy

    def __init__(self, head_rows: str | None = None, required: bool = False) -> None:
        if not isinstance(head_rows, (str, type(None))):
            raise ValueError(f'head_rows must name a file, got {head_rows!r}')
        self.head_rows = head_rows
        self.missing = check_bool('required', required)

    def before_train(self, runner) -> None:
        """Raises if weights are required and none were loaded."""
        if self.missing:
            raise ValueError('load_from must name the weights that this recipe fine-tunes, got none. After '
                             '--cfg-options: load_from=FILE, or '
                             'default_hooks.convert_checkpoint.required=False for random ones')

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Converts the checkpoint, in place."""
        self.missing = False
        convert_checkpoint(runner.model, checkpoint, self.head_rows)


def convert_checkpoint(model: nn.Module, checkpoint: dict, head_rows: str | None = None) -> None:
    """Renames the weights of a model's backbones, which are its direct children, in the contents of a file, in place.

    The model may be wrapped. See the hook for ``head_rows``.

    Raises:
        ValueError: as the hook; ``checkpoint`` stays unchanged.
    """
    model = unwrapped(model)
    own, loaded = model.state_dict(), checkpoint.get('state_dict', checkpoint)  # what mmengine's loader takes
    held, _, path = find_container(checkpoint)
    state = {next((name for name in (k, k.removeprefix('module.')) if name in own), bare(k)): v
             for k, v in held.items() if isinstance(k, str)}
    backbones = {f'{name}.': child for name, child in model.named_children()
                 if isinstance(child, core.SwinTransformerV2)}
    inside = [prefix for prefix in backbones if any(k.startswith(prefix) for k in state)]
    if inside:
        for prefix in inside:
            convert_state(backbones[prefix], state, prefix)
    elif backbones and (len(backbones_in(state)) == 1 or state.keys().isdisjoint(own)):
        state = {}
        for prefix, backbone in backbones.items():
            taken, head, text = _fit(backbone, held, prefix)
            print_log(text, logger='current')
            state.update({prefix + k: v for k, v in taken.items()})
            state.update({k: v for k, v in head.items() if k in own})
    fit_head(model, state, head_rows)
    if state.keys() == loaded.keys() and all(state[k] is loaded[k] for k in state):
        return
    for key in [k for k, v in checkpoint.items() if isinstance(v, Tensor) or k == path.partition('.')[0]]:
        del checkpoint[key]
    checkpoint['state_dict'] = state


def unwrapped(model: nn.Module) -> nn.Module:
    """The model of the config, without wrappers for distributed training or test-time augmentation."""
    while isinstance(inner := getattr(model, 'module', None), nn.Module):
        model = inner
    return model


def _name(backbone: nn.Module, prefix: str) -> str:
    return f'{type(backbone).__name__} ({prefix[:-1]})' if prefix else type(backbone).__name__
