"""Reads what ``torch.save`` wrote as weights and plain values, with chosen objects beside them; no code in it is run.

A run of MMEngine saves ``HistoryBuffer`` objects with numpy arrays, and methods of ``HistoryBuffer``, which pickle
writes as ``getattr(HistoryBuffer, name)``. ``STAND_INS`` reads them as nothing: MMEngine need not be installed.
"""
from __future__ import annotations

import codecs
import pickle
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch

from ..torch_compat import allowed_globals


class StandIn:
    """Stands for an object of a run that is not needed; what the file says of it is dropped."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


Objects = Mapping[str, Callable[..., Any]]

STAND_INS: Objects = dict.fromkeys((
    'builtins.getattr', 'mmengine.logging.history_buffer.HistoryBuffer', 'numpy.ndarray', 'numpy.dtype',
    *(f'numpy.{core}.multiarray.{name}' for core in ('core', '_core') for name in ('_reconstruct', 'scalar')),
), StandIn)  # numpy 1 and 2 name them differently


def load(path: str, objects: Objects) -> object:
    """Reads a file of ``torch.save``.

    Args:
        path: The file.
        objects: What may be in it beside weights and plain values, by the names in the file: classes and functions.

    Raises:
        pickle.UnpicklingError: if the file holds anything else.
    """
    if torch.__version__ < (2, 6):  # type: ignore[operator]
        return load_before_torch_2_6(path, objects)
    listed = torch.serialization.get_safe_globals()  # torch takes off all that a context adds, who ever added it first
    ours: list[Any] = [(value, name) for name, value in objects.items() if (value, name) not in listed]
    with torch.serialization.safe_globals(ours), open(path, 'rb') as file:  # of a path torch looks at the name
        return torch.load(file, map_location='cpu', weights_only=True)


def load_before_torch_2_6(path: str, objects: Objects) -> object:
    """The same for torch before 2.6, where an object cannot be declared safe under the name that a file has for it.

    Raises:
        pickle.UnpicklingError: if the file holds anything else.
    """
    allowed = {'_codecs.encode': codecs.encode, **allowed_globals(), **objects}  # bytes of numpy's

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            module = 'builtins' if module == '__builtin__' else module  # protocol 2 has Python 2's names
            if f'{module}.{name}' in allowed:
                return allowed[f'{module}.{name}']
            if module == 'torch' and name.endswith('Storage'):
                return super().find_class(module, name)
            raise pickle.UnpicklingError(f'GLOBAL {module}.{name}')

    module = SimpleNamespace(__name__='pickle', Unpickler=Unpickler, UnpicklingError=pickle.UnpicklingError,
                             load=lambda f, **kwargs: Unpickler(f, **kwargs).load())
    with open(path, 'rb') as file:
        return torch.load(file, map_location='cpu', weights_only=False, pickle_module=module)
