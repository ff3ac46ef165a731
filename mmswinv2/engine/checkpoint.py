"""Reads the checkpoints of MMEngine's runner as weights and plain values; code in a file is never run.

They hold the message hub: ``HistoryBuffer`` objects with numpy arrays, and methods of ``HistoryBuffer`` that pickle
writes as ``getattr(HistoryBuffer, name)``. While a file is read here, these are allowed beside the objects that torch
allows for weights; ``getattr`` itself is not.
"""
from __future__ import annotations

import codecs
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from torch._weights_only_unpickler import _get_allowed_globals

from ..core.weights.files import load_weights, read_file


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
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # numpy 1 and 2 name them differently
        allowed |= {f'{module}._reconstruct': reconstruct, f'{module}.scalar': scalar}
    return allowed


@contextmanager
def _allowed() -> Iterator[None]:
    """Lets ``torch.load`` treat the objects above as safe within the context; afterwards restores its list."""
    listed = torch.serialization.get_safe_globals()  # torch takes off all that a context adds, who ever added it first
    ours = [(value, name) for name, value in safe_globals().items() if (value, name) not in listed]
    with torch.serialization.safe_globals(ours):
        yield


def load_run(path: str):
    """Reads a checkpoint of MMEngine's runner as weights only, with the objects above.

    Raises:
        pickle.UnpicklingError: if the file holds anything else.
    """
    with _allowed():
        return load_weights(path)


class _Unpickler(pickle.Unpickler):
    """Finds the classes that torch and MMEngine checkpoints need, and nothing else."""

    def find_class(self, module: str, name: str):
        module = 'builtins' if module == '__builtin__' else module  # protocol 2 has Python 2's names
        allowed = {'_codecs.encode': codecs.encode, **_get_allowed_globals(), **safe_globals()}  # bytes of numpy's
        if f'{module}.{name}' in allowed:
            return allowed[f'{module}.{name}']
        if module == 'torch' and name.endswith('Storage'):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f'GLOBAL {module}.{name}')


def load_run_before_torch_2_6(path: str):
    """The same for torch before 2.6, where an object cannot be declared safe under the name that a file has for it.

    Raises:
        pickle.UnpicklingError: if the file holds anything else.
    """
    module = SimpleNamespace(__name__='pickle', Unpickler=_Unpickler, UnpicklingError=pickle.UnpicklingError,
                             load=lambda f, **kwargs: _Unpickler(f, **kwargs).load())
    with open(path, 'rb') as file:  # of a path torch looks at the name
        return torch.load(file, map_location='cpu', weights_only=False, pickle_module=module)


def read_run(path: str | os.PathLike) -> Mapping:
    """Reads a checkpoint, also one of MMEngine's runner, in any format that ``mmswinv2.core.weights.read_file`` knows.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, no checkpoint, or holds objects other than weights and the runner's.
    """
    return read_file(path, load=load_run if torch.__version__ >= (2, 6) else load_run_before_torch_2_6)


def load_from_local(filename: str, map_location=None) -> Mapping:
    """A loader of local files for MMEngine's ``CheckpointLoader``; see :func:`read_run`.

    Args:
        filename: A file; ``~`` is expanded.
        map_location: Not used: tensors are on the CPU until they are copied into the model.
    """
    return read_run(Path(filename).expanduser())


def read_local_files_safely() -> None:
    """Has MMEngine read local files by :func:`load_from_local`, for ``load_from``, ``--resume`` and ``mim test``.

    Under torch 2.6 and later, MMEngine's own loader cannot read its runner's files; under earlier versions it runs code
    in a file (mmengine 0.10.7, ``runner/checkpoint.py``; issue open-mmlab/mmengine#1655, open PR #1650). onedl-mmengine
    0.10.12 runs code in a file if reading weights only has failed (``_safe_torch_load``). Neither reads
    ``.safetensors`` or checks checksums. There is no release without these defects.
    """
    CheckpointLoader.register_scheme('', load_from_local, force=True)
