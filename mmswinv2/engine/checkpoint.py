"""Reading the checkpoints that MMEngine's runner writes, with torch's safe loading left on, and ``.safetensors``.

Since torch 2.6 ``torch.load`` reads weights only, and mmengine 0.10 calls it as it is. Its own checkpoints hold the
message hub: ``HistoryBuffer`` objects with numpy arrays, and methods of ``HistoryBuffer`` that pickle writes as
``getattr(HistoryBuffer, name)``. These, and nothing else, are added to what torch accepts; ``getattr`` itself is not.
onedl-mmengine allows them only while it reads a file itself.
"""
from __future__ import annotations

import codecs
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch._weights_only_unpickler import _get_allowed_globals

from ..hosts import require

require('mmengine', 'mmswinv2.engine')

from mmengine.logging import HistoryBuffer  # noqa: E402
from mmengine.runner import CheckpointLoader  # noqa: E402

from ..core.weights.files import read_file  # noqa: E402


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
    """What an MMEngine checkpoint holds beside weights, by the names that a pickle has for it."""
    array = np.zeros(1)
    reconstruct, scalar = array.__reduce__()[0], array[0].__reduce__()[0]
    types = [HistoryBuffer, np.ndarray, np.dtype]
    types += [type(np.dtype(code)) for code in np.typecodes['AllInteger'] + np.typecodes['Float'] + '?']
    allowed = {'builtins.getattr': history_buffer_method, **{f'{t.__module__}.{t.__qualname__}': t for t in types}}
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # numpy 1 and 2 name them differently
        allowed |= {f'{module}._reconstruct': reconstruct, f'{module}.scalar': scalar}
    return allowed


def allow_mmengine_checkpoints() -> None:
    """Tells torch which objects of an MMEngine checkpoint are safe; for the process, once or often.

    Each goes in with its name: onedl-mmengine adds some of them without while it reads a file, and then removes those.
    """
    if torch.__version__ >= (2, 6):  # before, torch takes no names
        torch.serialization.add_safe_globals([(value, name) for name, value in safe_globals().items()])


class _Unpickler(pickle.Unpickler):
    """Finds what torch and MMEngine checkpoints need, and nothing else."""

    def find_class(self, module: str, name: str):
        module = 'builtins' if module == '__builtin__' else module  # protocol 2 has Python 2's names
        allowed = {'_codecs.encode': codecs.encode, **_get_allowed_globals(), **safe_globals()}  # bytes of numpy's
        if f'{module}.{name}' in allowed:
            return allowed[f'{module}.{name}']
        if module == 'torch' and name.endswith('Storage'):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f'GLOBAL {module}.{name}')


def load_run(path: str):
    """Reads a checkpoint of MMEngine's runner under torch before 2.6, whose reading of weights knows no exceptions.

    Raises:
        pickle.UnpicklingError: if there is anything else in the file.
    """
    module = SimpleNamespace(__name__='pickle', Unpickler=_Unpickler, UnpicklingError=pickle.UnpicklingError,
                             load=lambda f, **kwargs: _Unpickler(f, **kwargs).load())
    with open(path, 'rb') as file:  # of a path torch looks at the name
        return torch.load(file, map_location='cpu', weights_only=False, pickle_module=module)


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(filename: str, map_location=None):
    """Reads a local file for ``load_from``, ``--resume`` and ``mim test``, weights only, whatever the stack.

    mmengine's own reader runs code in a file under torch before 2.6; onedl-mmengine 0.10.12's does so where reading
    weights only has failed (``runner/checkpoint.py``, ``_safe_torch_load``). Neither looks at checksums.

    Args:
        filename: A file in any format that :func:`mmswinv2.core.weights.read_file` knows.
        map_location: Not used: tensors are on the CPU until they are copied into the model.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, no checkpoint, or holds objects other than weights.
    """
    return read_file(Path(filename).expanduser(), **({} if torch.__version__ >= (2, 6) else dict(load=load_run)))
