#!/usr/bin/env python3
"""Converts checkpoints of Swin Transformer V2 between this project's layout and those of others.

The layout of SRC is told from its names. Each name is used, dropped by a rule that is printed, or an error; a
classifier's head and a mask token are kept where DST has a place for them. Errors are one line and exit code 2, and
leave no output file.
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmswinv2.core.checks import as_configured, first, to_windows
from mmswinv2.core.pretrained_windows import check_same, store_windows
from mmswinv2.core.weights import (
    ADAPTATIONS,
    LAYOUTS,
    WINDOWS_KEY,
    adapt_in_channels,
    check_complete,
    group_extras,
    inflate_state,
    read_backbone_state,
    read_file,
    read_rows,
    take_rows,
    to_layout,
    write_file,
)


def main(argv: list[str] | None = None) -> int:
    """Runs the conversion; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', metavar='SRC', type=Path, help='.pth or .safetensors; it is not changed')
    parser.add_argument('dst', metavar='DST', type=Path, help='.pth or .safetensors; replaced when it is there')
    parser.add_argument('--source', default='auto', choices=['auto', *LAYOUTS], help='the layout of SRC')
    parser.add_argument('--to', default='mmswinv2', choices=LAYOUTS, help='the layout of DST')
    parser.add_argument('--prefix', help="where the backbone is in SRC, such as 'backbone.' or 'model_ema.backbone.'; "
                        'default: where its patch embedding is')
    parser.add_argument('--pretrained-window-sizes', type=int, nargs='+', metavar='TOKENS',
                        help='one, or one per stage: what SRC was pre-trained with, where it does not say so itself')
    parser.add_argument('--window-size', type=int, nargs='+', metavar='TOKENS',
                        help='one, or one per stage, for the buffers of --to microsoft; default: as pre-trained')
    parser.add_argument('--image-size', type=int, metavar='PIXELS',
                        help='for the same; default: 32 times the last window')
    parser.add_argument('--temporal-patch-size', type=int, metavar='FRAMES',
                        help='inflates SRC, weights on images, for VideoSwinTransformerV2; with --temporal-window')
    parser.add_argument('--temporal-window', type=int, nargs='+', metavar='TOKENS',
                        help='one, or one per stage: its pre-training window along time')
    parser.add_argument('--in-channels', type=int, metavar='N',
                        help='channels of the images, where SRC is of others; with --adapt-in-channels')
    parser.add_argument('--adapt-in-channels', choices=ADAPTATIONS, help='what they get: the sum or the mean of the '
                        'weights of SRC over its channels (more than those of SRC: the others 0), or these repeated')
    parser.add_argument('--head-rows', type=Path, metavar='FILE', help='a row number of the head of SRC per class of '
                        'DST, such as data/map22kto1k.txt of microsoft/Swin-Transformer; default: all rows')
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
        if getattr(args, name) is not None and not LAYOUTS[args.to].windows_matter:
            raise ValueError(f'--{name.replace("_", "-")} must be given with --to microsoft only, got --to {args.to}')
    if args.dst.exists() and args.src.exists() and args.dst.samefile(args.src):
        raise ValueError(f'DST must be another file than SRC, got {args.dst} for both')
    if args.dst.is_dir():
        raise ValueError(f'DST must be a file, got the folder {args.dst}')
    found = read_backbone_state(read_file(args.src), source=args.source, prefix=args.prefix)
    if args.pretrained_window_sizes is not None:
        windows = unwrap(args.pretrained_window_sizes)
        given = to_windows('--pretrained-window-sizes', windows, found.num_stages, axes=found.axes)
        check_same('--pretrained-window-sizes', given, found.pretrained_window_sizes, 'what SRC says')
        store_windows(found.state, given)
    if args.head_rows is not None:
        head = {k: v for k, v in found.extras.items() if k.startswith('head.')}
        if not head:
            raise ValueError('--head-rows must be given for a checkpoint with a head, got one without')
        found.extras.update(take_rows(head, read_rows(args.head_rows)))
    if both(args, 'in_channels', 'adapt_in_channels'):
        found = adapt_in_channels(found, args.in_channels, args.adapt_in_channels)
    if both(args, 'temporal_patch_size', 'temporal_window'):
        found = inflate_state(found, temporal_patch_size=args.temporal_patch_size,
                              temporal_window=unwrap(args.temporal_window))
    config = check_complete(found)
    out, left = to_layout(found, args.to, window_size=unwrap(args.window_size), image_size=args.image_size)

    print(f'source   {found.source}, {len(found.state)} entries under {found.prefix!r}')
    kept = {rule: names for rule, names in group_extras(found.extras).items() if rule not in left}
    for what, groups in dict(dropped={**found.dropped, **left}, kept=kept).items():
        for rule, names in groups.items():
            print(f'{what:8} {rule}: {len(names)} ({first(names, 1)})')
    for name, value in config.items():
        print(f'config   {name}={as_configured(value) if name in ("window_size", WINDOWS_KEY) else value!r}')
    if found.pretrained_window_sizes is None:
        print('config   pretrained_window_sizes: SRC does not say them; set them in the config of the backbone, or '
              'give --pretrained-window-sizes')
    meta = {} if args.to != 'mmswinv2' else dict(source=found.source)
    write_file(args.dst, out, container=LAYOUTS[args.to].container, meta=meta)
    print(f'wrote    {args.dst}: {args.to}, {len(out)} entries, {args.dst.stat().st_size / 2**20:.1f} MiB')


def both(args: argparse.Namespace, *names: str) -> bool:
    """Whether two options are given.

    Raises:
        ValueError: if one of them is.
    """
    given = [getattr(args, name) for name in names]
    if given.count(None) == 1:
        options = ' and '.join(f'--{name.replace("_", "-")}' for name in names)
        raise ValueError(f'{options} must be given together, got {given[0]} and {given[1]}')
    return None not in given


def unwrap(values: list[int] | None) -> int | list[int] | None:
    """One value for all stages, or the list."""
    return values[0] if values is not None and len(values) == 1 else values


if __name__ == '__main__':
    sys.exit(main())
