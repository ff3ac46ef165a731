"""Proves kernels before ``auto`` takes them: on a GPU, the first time for a device, dtype, kind of window and heads.

A kernel attends on a small map of random tokens, ragged and shifted, forward and backward, twice. The results must be
near those of ``cells`` in float64 and have the same bits both times. If they are not, or anything fails, ``auto``
warns once and takes the next backend. A backend that is named is taken as it is.

``auto`` hands the operator a kernel that asks, ``'triton?'``, so a compiled graph asks when it runs, and nothing is
checked while it is compiled. Processes do not communicate about it: each decides for its own device.

The reference is ``cells`` and not ``eager``, whose attention maps in float64 would take gigabytes for clips.
"""
from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from tempfile import mkstemp
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import check_choice
from ..grid import Axis
from ..torch_compat import may_keep, without_autocast
from . import cells
from .operator import KERNELS, kernel_backend
from .problem import Backend, Problem

SWITCH = 'MMSWINV2_PROVE'  # '1': prove; '0': take kernels unproved; 'error': raise where one fails
BOUNDS = {torch.bfloat16: 2**-5, torch.float16: 2**-6}  # of relative errors in norm, 4 times those expected
ROWS = 8  # times as large for one token and head, relative to the root mean square of all
SUMMED = 8  # times as large for the gradient of the scale, a sum of terms that cancel
SCALES = 10., 99.  # of the first and the last head
REST = 7  # tokens of the last cell along an axis
SUMS = 'dtable', 'dscale'  # of all tokens
CUT = 15  # tokens of a window that is cut to a small map: such windows are one kind, whatever their size


class Verdict(NamedTuple):
    """What a check found: why the kernel is not taken, or None; relative errors by name; seconds it took."""

    reason: str | None
    errors: dict[str, float]
    seconds: float


VERDICTS: dict[tuple, Verdict] = {}


def asking(backends: Sequence[Backend]) -> Backend:
    """The first of some backends that proves itself: the fastest first, the last needs no proof."""
    def kernel(*args: Any) -> Any:
        return KERNELS[pick(backends, Problem(*args))]

    def forward(qkv: Tensor, table: Tensor, logit_scale: Tensor, seed: Tensor | None, *options: Any) -> Any:
        return kernel(qkv, table, logit_scale, *options).forward(qkv, table, logit_scale, seed, *options)

    def backward(grad_out: Tensor, qkv: Tensor, table: Tensor, logit_scale: Tensor, seed: Tensor | None, out: Tensor,
                 lse: Tensor, *options: Any) -> Any:
        return kernel(qkv, table, logit_scale, *options).backward(grad_out, qkv, table, logit_scale, seed, out, lse,
                                                                  *options)

    first = backends[0]
    return replace(kernel_backend(f'{first.name}?', forward, backward, first.refuses), name=first.name)


def pick(backends: Sequence[Backend], problem: Problem) -> str:
    """The name of the first backend that has proved itself for problems of this kind; each is tried once.

    Nothing is tried while a CUDA graph is captured: there the last is taken. Too little memory is no failure: the last
    is taken, and the others are tried at the next call.

    Raises:
        RuntimeError: if a kernel fails and ``MMSWINV2_PROVE=error``, or if it leaves the device unusable.
        ValueError: if ``MMSWINV2_PROVE`` is none of 0, 1 and error.
    """
    device = problem.qkv.device
    if not is_checked(device):
        return backends[0].name
    kind, failed, taken = _kind(problem), {}, backends[-1].name
    for backend in backends[:-1]:
        verdict = VERDICTS.get((backend.name, *kind))
        if verdict is None:
            if backend.refuses(problem) is not None:
                continue
            if not may_keep(device):
                warnings.warn(f"attn_backend='auto' takes {taken!r} on {_words(problem)} in a CUDA graph, since "
                              f'{backend.name!r} had not run before: run the model once before it is captured',
                              stacklevel=2)
                return taken
            try:
                verdict = VERDICTS[(backend.name, *kind)] = prove(backend.name, problem)
            except torch.cuda.OutOfMemoryError:
                return taken
            if verdict.reason is not None:
                failed[backend.name] = verdict.reason
        if verdict.reason is None:
            taken = backend.name
            break
    for name, reason in failed.items():
        warnings.warn(f"attn_backend='auto' does not use {name!r} on {_words(problem)}: {reason}; {taken!r} is used. "
                      f'See python -m mmswinv2 --info; {SWITCH}=0 takes it unproved', stacklevel=2)
    return taken


def prove(name: str, problem: Problem) -> Verdict:
    """Tries a kernel on a small map with the windows, heads and dtypes of a problem.

    Raises:
        torch.cuda.OutOfMemoryError: if it does not fit beside what is there.
        RuntimeError, ValueError: as :func:`pick`.
    """
    mode = check_choice(SWITCH, os.environ.get(SWITCH, '1'), ('0', '1', 'error'))
    if mode == '0':
        return Verdict(None, {}, 0.)
    errors: dict[str, float] = {}
    start, cause = time.perf_counter(), None
    device = problem.qkv.device
    with _marked(f'{name} on {device_name(device)}, torch {torch.__version__}', device) as left:
        if left:
            reason: str | None = f'it ended a process before; remove {left[0]} to try it again'
        else:
            try:
                with torch.no_grad(), without_autocast(device):
                    reason = _try(name, problem, errors)
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as e:  # whatever a compiler or a driver raises
                reason, cause = f'{type(e).__name__}: {e}'.strip().partition('\n')[0], e
                if is_spoiled(device):
                    raise RuntimeError(f'attention kernel {name!r} made {_words(problem)} unusable: {reason}; start '
                                       "again: attn_backend='auto' will not take it") from e
    if reason is not None and mode == 'error':
        raise RuntimeError(f'attention kernel {name!r} failed on {_words(problem)}, and {SWITCH}=error: '
                           f'{reason}') from cause
    return Verdict(reason, errors, time.perf_counter() - start)


def is_checked(device: torch.device) -> bool:
    """Whether kernels must prove themselves on a device."""
    return device.type == 'cuda'


def device_name(device: torch.device) -> str:
    """The name of a GPU."""
    return torch.cuda.get_device_name(device)


def is_spoiled(device: torch.device) -> bool:
    """Whether nothing can be done any more on a GPU, as after an illegal access to its memory."""
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def _axis(axis: Axis) -> Axis:
    """An axis that has a cell of each kind: a first one that a shift cuts, a whole window, a rest."""
    if axis.length == axis.window > 1 and axis.window % 8:
        return Axis(CUT, CUT)
    shift = axis.window // 2
    return Axis(shift + axis.window + min(REST, axis.window - 1), axis.window, shift)


def _kind(problem: Problem) -> tuple:
    """What a verdict holds for."""
    qkv, heads = problem.qkv, problem.logit_scale.numel()
    return qkv.device, qkv.dtype, tuple(_axis(axis).window for axis in problem.grid), heads, qkv.shape[-1]


def _words(problem: Problem) -> str:
    """The device and the kind of problem, in words."""
    device, dtype, window, heads, channels = _kind(problem)
    words = (f'{str(dtype).removeprefix("torch.")}, window {" x ".join(map(str, window))}, {heads} heads of '
             f'{channels // 3 // heads}')
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        words += f', rank {torch.distributed.get_rank()}'
    return f'{device_name(device)} ({words})'


def _try(name: str, problem: Problem, errors: dict[str, float]) -> str | None:
    """Runs a kernel twice and compares; fills in ``errors`` and returns what is wrong, or None."""
    qkv, heads = problem.qkv, problem.logit_scale.numel()
    grid, channels = tuple(map(_axis, problem.grid)), qkv.shape[-1]
    generator = torch.Generator(qkv.device).manual_seed(0)  # torch's own draws stay as they are

    def draw(like: Tensor, *shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=qkv.device).to(like.dtype)

    lengths = [axis.length for axis in grid]
    low, high = map(math.log, SCALES)
    scale = torch.linspace(low, high, heads, device=qkv.device).view_as(problem.logit_scale)
    inputs = (draw(qkv, 1, *lengths, channels), draw(problem.table, heads, *(2 * axis.window - 1 for axis in grid)),
              scale.to(problem.logit_scale.dtype))
    grad_out = draw(qkv, 1, *lengths, channels // 3)

    def run(name: str, grad_out: Tensor, *inputs: Tensor) -> dict[str, Tensor]:
        options = None, grid, 0., problem.budget
        kernel = KERNELS[name]
        # what is allocated next has these values where a kernel does not write
        used = [torch.full_like(t, math.nan) for t in (grad_out, *inputs)]
        del used
        out, lse = kernel.forward(*inputs, *options)
        grad_qkv, *others = kernel.backward(grad_out, *inputs, None, out, lse, *options[1:])
        maps = out, *grad_qkv.unflatten(-1, (3, -1)).unbind(-2)
        return dict(zip(('out', 'dq', 'dk', 'dv', *SUMS), (*maps, *others)))

    first, second = run(name, grad_out, *inputs), run(name, grad_out, *inputs)
    exact = run(cells.BACKEND.name, grad_out.double(), *(t.double() for t in inputs))
    bound = BOUNDS[qkv.dtype]
    for what, right in exact.items():
        error = first[what] - right
        errors[what] = (error.norm() / right.norm()).item()
        if what not in SUMS:
            rows, sizes = (t.unflatten(-1, (heads, -1)).norm(dim=-1) for t in (error, right))
            rows /= sizes.square().mean().sqrt()
            wrong = (~(rows <= ROWS * bound)).nonzero()
            if len(wrong):
                return (f'{what} of {len(wrong)} rows is off by up to {rows.max():.2g}, allowed {ROWS * bound:.2g}; '
                        f'the first is {tuple(wrong[0, 1:].tolist())}, by token and head')
        allowed = bound * (SUMMED if what == 'dscale' else 1)
        if not errors[what] <= allowed:
            return f'{what} is off by {errors[what]:.2g}, allowed {allowed:.2g}'
    different = [what for what, t in first.items() if not torch.equal(t, second[what])]
    return f'{", ".join(different)} had other bits in a second run' if different else None


@contextmanager
def _marked(what: str, device: torch.device) -> Iterator[list[Path]]:
    """Keeps a locked file while a kernel is tried, and gives those that are no longer locked.

    Their processes ended meanwhile. One that goes on, but has lost its device, leaves its file too. Where files cannot
    be locked there are none.
    """
    code = b''.join(path.read_bytes() for path in sorted(Path(__file__).parent.rglob('*.py')))
    prefix, marker = sha256(what.encode() + code).hexdigest()[:16], None
    try:
        import fcntl
        folder = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'mmswinv2'
        folder.mkdir(parents=True, exist_ok=True)
        left = [path for path in folder.glob(f'{prefix}-*') if _is_left(path)]
        file, name = mkstemp(dir=folder)
        os.write(file, f'{what}\n'.encode())
        fcntl.flock(file, fcntl.LOCK_EX)
        marker = Path(name).replace(folder / f'{prefix}-{Path(name).name}')  # others see it locked
    except (ImportError, OSError, RuntimeError):
        left = []
    try:
        yield left
    finally:
        if marker is not None:
            if not is_spoiled(device):
                marker.unlink(missing_ok=True)
            os.close(file)


def _is_left(path: Path) -> bool:
    """Whether nobody holds the lock of a file."""
    import fcntl
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
