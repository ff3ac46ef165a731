"""``python -m mmswinv2 NAME`` prints the path of a config or a tool, wherever the plugin is installed.

    mim train mmdet $(python -m mmswinv2 htc_swinv2_g)
    python $(python -m mmswinv2 predict) --help
    python -m mmswinv2           # the names
    python -m mmswinv2 --info    # versions, hosts, and what attention would run on here
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
PLACES = (PACKAGE / '.mim', PACKAGE.parent)  # of a wheel, of a checkout


def find_configs() -> dict[str, Path]:
    """The configs by name, without ``.py``; they are in a folder per host."""
    return {path.stem: path for path in sorted(folder('configs').glob('*/*.py'))}


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
        from . import info
        print('\n'.join(info.lines()))
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


if __name__ == '__main__':
    sys.exit(main())
