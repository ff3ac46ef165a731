"""Reading the checkpoints that MMEngine's runner writes, with torch's safe loading left on, and ``.safetensors``.

Since torch 2.6 ``torch.load`` reads weights only, and mmengine 0.10 calls it as it is. Its own checkpoints hold the
message hub: ``HistoryBuffer`` objects with numpy arrays, and methods of ``HistoryBuffer`` that pickle writes as
``getattr(HistoryBuffer, name)``. These, and nothing else, are added to what torch accepts; ``getattr`` itself is not.
onedl-mmengine allows them only while it reads a file itself.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..hosts import require

require('mmengine', 'mmswinv2.engine')

from mmengine.logging import HistoryBuffer  # noqa: E402
from mmengine.runner import CheckpointLoader  # noqa: E402

from ..core.files import read_file  # noqa: E402


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


def allow_mmengine_checkpoints() -> None:
    """Tells torch which objects of an MMEngine checkpoint are safe; for the process, once or often.

    Each goes in with its name: onedl-mmengine adds some of them without while it reads a file, and then removes those.
    """
    if torch.__version__ < (2, 6):  # it reads whole pickles by default, and takes no names
        return
    array = np.zeros(1)
    reconstruct, scalar = array.__reduce__()[0], array[0].__reduce__()[0]
    types = [HistoryBuffer, np.ndarray, np.dtype]
    types += [type(np.dtype(code)) for code in np.typecodes['AllInteger'] + np.typecodes['Float'] + '?']
    allowed = [(history_buffer_method, 'builtins.getattr')]
    allowed += [(t, f'{t.__module__}.{t.__qualname__}') for t in types]
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # numpy 1 and 2 name them differently
        allowed += [(reconstruct, f'{module}._reconstruct'), (scalar, f'{module}.scalar')]
    torch.serialization.add_safe_globals(allowed)


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(filename: str, map_location=None):
    """Reads a local file for ``load_from``, ``--resume`` and ``mim test``, weights only, whatever the stack.

    mmengine's own reader runs code in a file under torch before 2.6; onedl-mmengine 0.10.12's does so where reading
    weights only has failed (``runner/checkpoint.py``, ``_safe_torch_load``). Neither looks at checksums.

    Args:
        filename: A file in any format that :func:`mmswinv2.core.files.read_file` knows.
        map_location: Not used: tensors are on the CPU until they are copied into the model.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, no checkpoint, or holds objects other than weights.
    """
    return read_file(Path(filename).expanduser())
