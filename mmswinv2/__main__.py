"""``python -m mmswinv2 NAME`` prints the path of a config or a tool, wherever the plugin is installed.

    mim train mmdet $(python -m mmswinv2 htc_swinv2_g)
    python $(python -m mmswinv2 predict) --help
    python -m mmswinv2           # the names
    python -m mmswinv2 --info    # versions, hosts, and what attention runs on here, tried on a GPU
"""
from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .core.attention import BACKENDS, Problem, choose
from .core.attention.backends import ASKING, default_budget
from .core.attention.proof import is_checked, prove
from .core.grid import Axis
from .hosts import HOSTS, is_installed, mim_name
from .version import __version__

PACKAGE = Path(__file__).resolve().parent
PLACES = (PACKAGE / '.mim', PACKAGE.parent)  # of a wheel, of a checkout
# of SwinV2-T's first stage: in words, tokens of the map, of the window
CASES = (('256 px, window 8', (64, 64), (8, 8)), ('800 x 1333 px, window 16', (200, 334), (16, 16)),
         ('1536 px, window 32', (384, 384), (32, 32)),
         ('16 frames of 320 px, window 8 x 20 x 20', (8, 80, 80), (8, 20, 20)))
CHANNELS, HEADS = 96, 3
DISTRIBUTIONS = ('{}', 'onedl-{}')


def find_configs() -> dict[str, Path]:
    """The configs by name, without ``.py``; of two hosts' configs of one name, the second is ``HOST/NAME``."""
    found: dict[str, Path] = {}
    for path in sorted(folder('configs').glob('mm*/*.py')):
        found[path.stem if path.stem not in found else f'{path.parent.name}/{path.stem}'] = path
    return found


def find_tools() -> dict[str, Path]:
    """The tools by name, without ``.py``: the files with a ``#!`` line, not those that they import."""
    return {path.stem: path for path in sorted(folder('tools').glob('*.py')) if path.read_bytes().startswith(b'#!')}


def folder(name: str) -> Path:
    """The folder of the configs or the tools.

    Raises:
        ValueError: if there is none.
    """
    found = [place / name for place in PLACES if (place / name).is_dir()]
    if not found:
        raise ValueError(f'{name} must be in {" or ".join(str(place / name) for place in PLACES)}, and neither is a '
                         'folder: install mmswinv2-plugin again')
    return found[0]


def lines(configs: dict[str, Path], tools: dict[str, Path]) -> Iterator[str]:
    """All names, configs by host."""
    for host in dict.fromkeys(path.parent.name for path in configs.values()):
        yield f'configs of {host}:'
        yield from (f'  {name}' for name, path in configs.items() if path.parent.name == host)
    yield 'tools:'
    yield from (f'  {name}' for name in tools)


def main() -> int:
    """Prints a path, or the names there are; returns the exit code."""
    parser = argparse.ArgumentParser(prog='python -m mmswinv2', description='Prints the path of a config or a tool.')
    parser.add_argument('name', nargs='?', help='such as htc_swinv2_g or predict; without it, all names are listed')
    parser.add_argument('--info', action='store_true', help='print versions, hosts, and what attention would run on')
    args = parser.parse_args()
    if args.info:
        print('\n'.join(report()))
        return 0
    try:
        configs, tools = find_configs(), find_tools()
        if args.name is None:
            print('\n'.join(lines(configs, tools)))
        else:
            print(pick(args.name, configs | tools))
    except ValueError as e:
        print(f'python -m mmswinv2: {e}', file=sys.stderr)
        return 2
    return 0


def pick(name: str, paths: dict[str, Path]) -> Path:
    """The path of a config or tool, by its name with or without ``.py``.

    Raises:
        ValueError: if there is none; the message has the nearest names.
    """
    path = paths.get(name.removesuffix('.py'))
    if path is None:
        near = get_close_matches(name, paths, n=5, cutoff=.5)
        raise ValueError(f'name must be one of the {len(paths)} that `python -m mmswinv2` lists, got {name!r}' +
                         (f'; near it: {", ".join(near)}' if near else ''))
    return path


def report() -> Iterator[str]:
    """What is installed, and what attention would run on here, line by line."""
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
            name = choose(problem).name
            yield f'  {words:42}{name}'
            if name in ASKING and is_checked(device):
                yield from tried(problem)
    problem = example(*CASES[2][1:], dtype, device)
    for name, backend in BACKENDS.items():
        reason = backend.refuses(problem)
        if reason is not None:
            yield f'  backend {name!r} is not supported here: {reason}'


def tried(problem: Problem) -> Iterator[str]:
    """What ``auto`` finds where it tries kernels for problems of this kind, line by line."""
    for name in ASKING:
        if BACKENDS[name].refuses(problem) is None:
            reason, errors, seconds = prove(name, problem)
            text = ' '.join(f'{what} {error:.0e}' for what, error in errors.items()) or 'not known'
            yield f'    {name}: ' + (reason or f'proved in {1000 * seconds:.0f} ms, errors {text}')


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


if __name__ == '__main__':
    sys.exit(main())
