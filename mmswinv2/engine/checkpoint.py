"""Checkpoints of MMEngine's runner: read from files and URLs without running code, written as plain values.

What the runner writes holds the message hub: ``HistoryBuffer`` objects with numpy arrays, and methods of
``HistoryBuffer`` that pickle writes as ``getattr(HistoryBuffer, name)``. While a file is read here, these are allowed
beside the objects that torch allows for weights; ``getattr`` itself is not.
"""
from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from mmengine import dist
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from ..core.weights.files import NUMPYS, read_file

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


def to_plain(checkpoint: dict) -> None:
    """Replaces what a runner keeps beside its weights by plain values, in place.

    ``torch.load`` reads the file then with ``weights_only=True``, its default from 2.6, as do
    ``DetInferencer(weights=FILE)`` and the other inferencers, which take the config from the file.
    """
    for key in ('meta', 'message_hub', 'param_schedulers'):
        if key in checkpoint:
            checkpoint[key] = _plain(checkpoint[key])


def _plain(value):
    if isinstance(value, HistoryBuffer):
        logs, counts = map(torch.from_numpy, value.data)
        return dict(log_history=logs, count_history=counts, max_length=value.max_length)
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, Mapping):
        return {_plain(k): _plain(v) for k, v in value.items()}
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def from_plain(checkpoint: dict) -> None:
    """Makes the message hub's ``HistoryBuffer`` objects again, in place; those of a file of MMEngine stay."""
    scalars = (checkpoint.get('message_hub') or {}).get('log_scalars', {})
    for name, value in scalars.items():
        if isinstance(value, Mapping) and value.keys() == {'log_history', 'count_history', 'max_length'}:
            scalars[name] = HistoryBuffer(*(value[k].cpu().numpy() for k in ('log_history', 'count_history')),
                                          value['max_length'])


def load(filename: str, map_location=None) -> Mapping:
    """A loader of files and URLs for MMEngine's ``CheckpointLoader``; see :func:`read_named`.

    Args:
        filename: A file or a URL.
        map_location: Not used: tensors are on the CPU until they are copied into the model.
    """
    return read_named(filename)


def read_local_files_safely() -> None:
    """Has MMEngine read files, fetched ones too, by the loader above: ``load_from``, ``--resume`` and ``mim test``.

    Under torch 2.6 and later, MMEngine's own loader cannot read its runner's files; under earlier versions it runs code
    in a file (mmengine 0.10.7, ``runner/checkpoint.py``; issue open-mmlab/mmengine#1655, open PR #1650). onedl-mmengine
    0.10.12 runs code in a file if reading weights only has failed (``_safe_torch_load``). Neither reads
    ``.safetensors`` or checks checksums. There is no release without these defects.
    """
    CheckpointLoader.register_scheme(['', *URLS], load, force=True)
