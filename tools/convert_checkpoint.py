#!/usr/bin/env python3
"""Converts checkpoints of Swin Transformer V2 between this project's layout and those of others.

The layout of SRC is told from its names. Each name is used, dropped by a rule that is printed, or an error. Errors are
one line and exit code 2, and leave no output file.
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from mmswinv2.core.checkpoint import WINDOWS_KEY, check_complete, read_backbone_state
from mmswinv2.core.checks import square, to_windows
from mmswinv2.core.export import TARGETS, to_layout
from mmswinv2.core.files import read_file, write_file
from mmswinv2.core.layouts import LAYOUTS
from mmswinv2.hosts import is_installed

if is_installed('mmengine'):  # whose checkpoints hold more than weights
    from mmswinv2.engine.checkpoint import read_run as read_file

CONTAINERS = dict(mmswinv2='state_dict', microsoft='model', timm=None, transformers=None)


def main(argv: list[str] | None = None) -> int:
    """Runs the conversion; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', metavar='SRC', type=Path, help='.pth or .safetensors; it is not changed')
    parser.add_argument('dst', metavar='DST', type=Path, help='.pth or .safetensors; replaced when it is there')
    parser.add_argument('--source', default='auto', choices=['auto', *LAYOUTS], help='the layout of SRC')
    parser.add_argument('--to', default='mmswinv2', choices=TARGETS, help='the layout of DST')
    parser.add_argument('--prefix', help="where the backbone is in SRC, such as 'backbone.'; default: where its patch "
                        'embedding is')
    parser.add_argument('--pretrained-window-sizes', type=int, nargs='+', metavar='TOKENS',
                        help='one, or one per stage: what SRC was pre-trained with, where it does not say so itself')
    parser.add_argument('--window-size', type=int, nargs='+', metavar='TOKENS',
                        help='one, or one per stage, for the buffers of --to microsoft; default: as pre-trained')
    parser.add_argument('--image-size', type=int, metavar='PIXELS',
                        help='for the same; default: 32 times the last window')
    args = parser.parse_args(argv)
    try:
        convert(args)
    except (ValueError, ImportError, OSError) as e:
        message = ' '.join(str(e).split())
        print(f'convert_checkpoint: {message}', file=sys.stderr)
        return 2
    return 0


def convert(args: argparse.Namespace) -> None:
    """Reads, checks, reports and writes.

    Raises:
        ValueError: if SRC does not fit, or an option contradicts it.
    """
    for name in ('window_size', 'image_size'):
        if getattr(args, name) is not None and args.to != 'microsoft':
            raise ValueError(f'--{name.replace("_", "-")} must be given with --to microsoft only, got --to {args.to}')
    if args.dst.exists() and args.src.exists() and args.dst.samefile(args.src):
        raise ValueError(f'DST must be another file than SRC, got {args.dst} for both')
    if args.dst.is_dir():
        raise ValueError(f'DST must be a file, got the folder {args.dst}')
    found = read_backbone_state(read_file(args.src), source=args.source, prefix=args.prefix)
    num_stages = 1 + max(int(k.split('.')[1]) for k in found.state if k.startswith('layers.'))
    if args.pretrained_window_sizes is not None:
        given = to_windows('--pretrained-window-sizes', unwrap(args.pretrained_window_sizes), num_stages)
        if found.pretrained_window_sizes not in (None, given):
            raise ValueError(f'--pretrained-window-sizes must be what SRC says, '
                             f'{square(found.pretrained_window_sizes)}, got {square(given)}')
        found.state[WINDOWS_KEY] = torch.tensor(given, dtype=torch.int64)
    config = check_complete(found)
    out, left = to_layout(found, args.to, window_size=unwrap(args.window_size), image_size=args.image_size)

    print(f'source   {found.source}, {len(found.state)} entries under {found.prefix!r}')
    for rule, names in {**found.dropped, **left}.items():
        print(f'dropped  {rule}: {len(names)} ({names[0]}{", ..." if len(names) > 1 else ""})')
    for name, value in config.items():
        print(f'config   {name}={short(name, value)!r}')
    if found.pretrained_window_sizes is None:
        print('config   pretrained_window_sizes: SRC does not say them; set them in the config of the backbone, or '
              'give --pretrained-window-sizes')
    meta = {} if args.to != 'mmswinv2' else dict(source=found.source)
    write_file(args.dst, out, container=CONTAINERS[args.to], meta=meta)
    print(f'wrote    {args.dst}: {args.to}, {len(out)} entries, {args.dst.stat().st_size / 2**20:.1f} MiB')


def unwrap(values: list[int] | None) -> int | list[int] | None:
    """One value for all stages, or the list."""
    return values[0] if values is not None and len(values) == 1 else values


def short(name: str, value):
    """Windows as they stand in configs."""
    return square([tuple(v) for v in value]) if name.endswith(('window_size', 'window_sizes')) else value


if __name__ == '__main__':
    sys.exit(main())
