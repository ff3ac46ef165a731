"""What is installed, and what attention would run on here: ``python -m mmswinv2 --info``."""
from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import torch

from .core.attention import BACKENDS, Problem, choose
from .core.attention.backends import default_budget
from .core.grid import Axis
from .hosts import HOSTS, is_installed, mim_name
from .version import __version__

# of SwinV2-T's first stage: in words, tokens of the map, of the window
CASES = (('256 px, window 8', (64, 64), (8, 8)), ('800 x 1333 px, window 16', (200, 334), (16, 16)),
         ('1536 px, window 32', (384, 384), (32, 32)),
         ('16 frames of 320 px, window 8 x 20 x 20', (8, 80, 80), (8, 20, 20)))
CHANNELS, HEADS = 96, 3
DISTRIBUTIONS = ('{}', 'onedl-{}')


def lines() -> Iterator[str]:
    """The report, line by line."""
    cuda = torch.cuda.is_available()
    device = torch.device('cuda' if cuda else 'cpu')
    yield f'mmswinv2 {__version__}, Python {platform.python_version()}, torch {torch.__version__}, ' + (
        torch.cuda.get_device_name() if cuda else 'no CUDA device')
    for package in ('mmengine', 'mmcv', *HOSTS):
        yield f'{package:12}{found(package)}'
    for dtype in (torch.float32, torch.bfloat16) if cuda else (torch.float32,):
        yield f'attn_backend=\'auto\' in training, SwinV2-T, first stage, {str(dtype).removeprefix("torch.")}:'
        for words, tokens, window in CASES:
            problem = example(tokens, window, dtype, device)
            yield f'  {words:42}{choose(problem).name}'
    problem = example(*CASES[2][1:], dtype, device)
    for name, backend in BACKENDS.items():
        reason = backend.refuses(problem)
        if reason is not None:
            yield f'  backend {name!r} is not supported here: {reason}'


def found(package: str) -> str:
    """The version of a package, and what mim calls it."""
    if not is_installed(package):
        return 'not installed'
    name = mim_name(package) if package in HOSTS else package
    for pattern in DISTRIBUTIONS:
        for known in dict.fromkeys([name, package, dict(mmseg='mmsegmentation').get(package, package)]):
            try:
                text = f'{version(pattern.format(known))}'
            except PackageNotFoundError:
                continue
            return text + (f', mim train {name}' if package in HOSTS else '')
    return 'of unknown version'


def example(tokens: tuple[int, ...], window: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Problem:
    """Attention of a map in shifted windows, in training, without the memory of its tokens."""
    qkv = torch.empty((), dtype=dtype, device=device, requires_grad=True).expand(1, *tokens, 3 * CHANNELS)
    table = torch.empty((), device=device).expand(HEADS, *(2 * size - 1 for size in window))
    grid = tuple(Axis.fit(length, size, shifted=True) for length, size in zip(tokens, window))
    return Problem(qkv, table, torch.zeros(HEADS, 1, 1, device=device), grid, budget=default_budget(device))
