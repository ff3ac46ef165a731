"""``python -m mmswinv2 NAME`` prints the path of a config, wherever the plugin is installed.

    mim train mmdet $(python -m mmswinv2 htc_swinv2_g)
    python -m mmswinv2 --info    # versions, hosts, and what attention would run on here
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
FOLDERS = (PACKAGE / '.mim' / 'configs', PACKAGE.parent / 'configs')  # of a wheel, of a checkout


def find_configs() -> dict[str, Path]:
    """The configs by name, without ``.py``."""
    folder = next((f for f in FOLDERS if f.is_dir()), None)
    if folder is None:
        return {}
    return {path.stem: path for path in sorted(folder.glob('*/*.py'))}  # a folder per host


def main() -> int:
    """Prints the path of a config, or the names there are; returns the exit code."""
    parser = argparse.ArgumentParser(prog='python -m mmswinv2', description='Prints the path of a config.')
    parser.add_argument('name', nargs='?', help='such as htc_swinv2_g; without it, all names are listed')
    parser.add_argument('--info', action='store_true', help='print versions, hosts, and what attention would run on')
    args = parser.parse_args()
    if args.info:
        from .info import lines
        print('\n'.join(lines()))
        return 0
    name = args.name
    configs = find_configs()
    if name is None:
        print('\n'.join(configs))
        return 0
    path = configs.get(name.removesuffix('.py'))
    if path is None:
        print(f'name must be one of {", ".join(configs)}, got {name!r}', file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == '__main__':
    sys.exit(main())
