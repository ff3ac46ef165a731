"""Checkpoint files: read as weights only, written whole or not at all."""
from __future__ import annotations

import codecs
import os
import pickle
import re
import shutil
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..torch_compat import allowed_globals


class StandIn:
    """Stands for an object of a run that is not needed; what the file says of it is dropped."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


Objects = Mapping[str, Callable[..., Any]]  # by their names in a file

NUMPYS = ('numpy.core.multiarray.', 'numpy._core.multiarray.')  # 1 and 2 name what makes arrays differently
# what a run of MMEngine saves beside its weights; methods of HistoryBuffer are written as getattr(HistoryBuffer, name)
STAND_INS: Objects = dict.fromkeys((
    'builtins.getattr', 'mmengine.logging.history_buffer.HistoryBuffer', 'numpy.ndarray', 'numpy.dtype',
    *(module + name for module in NUMPYS for name in ('_reconstruct', 'scalar'))), StandIn)

_NOT_WHOLE = 'checkpoint must be a whole {}, got {}'
SAFETENSORS = '.safetensors'
_TORCH = 'file that torch.save wrote (read with weights_only=True)'
_ZIP, _PICKLE = b'PK\x03\x04', b'\x80'  # what torch's files begin with, from 1.6 on and before


def read_file(path: str | os.PathLike, *, objects: Objects = STAND_INS) -> Mapping:
    """Reads a checkpoint without running code that it may hold; tensors are on the CPU and in memory.

    The first bytes tell safetensors from torch's files; if they fit neither, the name decides.

    Args:
        path: A safetensors file, or one that ``torch.save`` wrote, packed by a zip tool or not.
        objects: What else may be in torch's files: classes and functions, by the names in the file. By default, what a
            run of MMEngine keeps beside its weights is read as nothing.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is empty, truncated or no checkpoint, has a wrong checksum, or holds objects other than
            weights. Safetensors and torch's format before 1.6 have no checksums.
        ImportError: if safetensors is needed and not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'checkpoint must be a file, there is none at {path}')
    try:
        with path.open('rb') as file:
            begin = file.read(9)
    except OSError as e:
        raise ValueError(f'checkpoint must be readable, got {path} ({e.strerror})') from e
    named = path.suffix.lower() == SAFETENSORS and not begin.startswith((_ZIP, _PICKLE))
    # safetensors begin with the length of a JSON object that fits the file
    if named or begin[8:] == b'{' and int.from_bytes(begin[:8], 'little') <= path.stat().st_size - 8:
        return _read_safetensors(path)
    checkpoint = _read_torch(path, objects, zipped=begin.startswith(_ZIP))
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f'checkpoint must hold a dict, got {type(checkpoint).__name__} in {path}')
    return checkpoint


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    safetensors = _safetensors()
    try:
        # copied, since these are mapped from the file: who writes into that later would end the process
        return {name: value.clone() for name, value in safetensors.torch.load_file(path).items()}
    except Exception as e:  # it has its own, and torch has others for what it cannot represent
        raise ValueError(f'{_NOT_WHOLE.format("safetensors file", path)}: {_line(e)}') from e


def _read_torch(path: Path, objects: Objects, *, zipped: bool) -> object:
    if zipped and (why := why_damaged(path)):
        raise ValueError(f'{_NOT_WHOLE.format(_TORCH, path)} ({why})')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # what torch warns of is an error below
            return unpickle(str(path), objects)
    except Exception as e:  # a damaged pickle can raise anything
        # torch 2.1 names a class without the word
        what = re.search(r'(?:GLOBAL|Unsupported class) ((?:\w+\.)*\w+)(?:\s|$)', str(e), re.ASCII)
        if isinstance(e, pickle.UnpicklingError) and what and (zipped or _may_exist(what[1])):
            raise ValueError(f'checkpoint must hold weights and plain values only (weights_only=True), got {path} with '
                             f'{what[1]}; code in a file is not run: save its weights alone') from e
        why = f' ({_line(e)})' if not isinstance(e, pickle.UnpicklingError) else ''  # that is advice for others
        if not zipped and zipfile.is_zipfile(path):
            why = ' (a zip file with something else before it)'
        raise ValueError(_NOT_WHOLE.format(_TORCH, path) + why) from e


def unpickle(path: str, objects: Objects) -> object:
    """Reads a file of ``torch.save``; no code in it is run.

    Args:
        path: The file.
        objects: What may be in it beside weights and plain values, by the names in the file: classes and functions.

    Raises:
        pickle.UnpicklingError: if the file holds anything else.
    """
    if torch.__version__ < (2, 6):  # type: ignore[operator]
        return unpickle_before_torch_2_6(path, objects)
    listed = torch.serialization.get_safe_globals()  # torch takes off all that a context adds, who ever added it first
    ours: list[Any] = [(value, name) for name, value in objects.items() if (value, name) not in listed]
    with torch.serialization.safe_globals(ours), open(path, 'rb') as file:  # of a path torch looks at the name
        return torch.load(file, map_location='cpu', weights_only=True)


def unpickle_before_torch_2_6(path: str, objects: Objects) -> object:
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


def _may_exist(name: str) -> bool:
    """Whether a module may have such a name, as far as can be told without importing one."""
    parent, _, attribute = name.rpartition('.')
    module = sys.modules.get(parent or 'builtins')
    return module is None or module.__name__ == '__main__' or hasattr(module, attribute)


def why_damaged(path: Path) -> str | None:
    """Checks a zip file that ``torch.save`` wrote by its checksums: what is wrong, in words; None if nothing is.

    Reads the whole file. torch does not check checksums.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as e:  # a damaged directory can raise anything
        return f'damaged: {_line(e)}'
    return f'damaged in {damaged}: wrong checksum' if damaged else None


def write_file(path: str | os.PathLike, weights: Mapping[str, Tensor], *, container: str | None = None,
               meta: Mapping[str, str] | None = None) -> None:
    """Writes a checkpoint whole or not at all: under another name first, which then replaces ``path``.

    Args:
        path: The file; ``.safetensors``, in any case, for that format, else for ``torch.load``. It gets the mode of a
            new file, even if it replaces one.
        weights: Names and tensors.
        container: Key under which the weights are put, such as ``'state_dict'``; None: without a container. A
            safetensors file never has one.
        meta: Information beside the weights: ``meta`` in a container, metadata of a safetensors file.

    Raises:
        ValueError: if the folder of ``path`` does not exist, or something other than a file is there.
        OSError: if it cannot be written; what was there before stays.
        ImportError: if safetensors is needed and not installed.
    """
    path = Path(path).resolve()  # through a link, so that it stays one
    if not path.parent.is_dir():
        raise ValueError(f'the output must be in a folder that exists, got {path}')
    if path.exists() and not path.is_file():
        raise ValueError(f'the output must be a file or absent, got {path}, which is something else')
    own = {k: _own(v) for k, v in weights.items()}
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        part.touch()
        mode = part.stat().st_mode  # by the umask; safetensors would have 0600
        if path.suffix.lower() == SAFETENSORS:
            _safetensors().torch.save_file(own, part, metadata={'format': 'pt', **(meta or {})})
        elif container is None:
            torch.save(own, part)
        else:
            torch.save({container: own, 'meta': dict(meta or {})}, part)
        part.chmod(mode)
        put_in_place(part, path)
    except ImportError:
        raise
    except Exception as e:  # torch and safetensors have their own for a full disk
        raise OSError(f'the output could not be written to {path}: {_line(e)}') from e
    finally:
        part.unlink(missing_ok=True)


def _own(tensor: Tensor) -> Tensor:
    """A tensor with memory of its own, and no lazy conjugation or negation.

    torch would save a view together with its whole storage. safetensors refuses tensors that share memory, and writes
    numbers without a lazy sign.
    """
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.untyped_storage().nbytes() == tensor.nbytes and tensor.is_contiguous():
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def put_in_place(part: Path, path: Path) -> None:
    """Moves a finished file or folder to its name, durably: whatever happens, ``path`` is the old one or the new one.

    A folder cannot replace another, so an old folder is removed just before.
    """
    for one in [*part.rglob('*'), part]:
        _sync(one)
    if path.is_dir():
        remove(path)
    part.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: str | os.PathLike) -> None:
    """Removes a file or a folder, if it is there."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace_text(path: str | os.PathLike, text: str) -> None:
    """Writes a small file whole: at any moment, it has the old text or the new one."""
    path = Path(path)
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        part.write_text(text)
        put_in_place(part, path)
    finally:
        part.unlink(missing_ok=True)


def _safetensors() -> ModuleType:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as e:
        raise ImportError('safetensors is needed for .safetensors files: pip install safetensors') from e
    return safetensors


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
