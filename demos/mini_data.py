"""What the tools that write small data sets share: the command line, and writing all or nothing."""
from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def write_data_set(description: str, name: str, write_split: Callable[..., str], *, train: int, val: int,
                   unit: str = 'images',
                   add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
                   read_options: Callable[[argparse.Namespace], dict] = lambda args: {}) -> int:
    """Reads the command line and writes a data set beside its place first, so that it is whole or not there.

    Nothing is deleted but what this function has written: ``NAME.json`` in the folder lists it, with checksums.

    Args:
        description: For ``--help``.
        name: Of the data set; ``NAME.json`` in its folder says what it was made with.
        write_split: Called with a folder, ``'train'`` or ``'val'``, a number of images, a seed, and what
            ``read_options`` returned as keywords; returns a summary.
        train: Images to train on if the command line does not say.
        val: Images to test on if it does not.
        unit: What these are, if not images.
        add_options: Adds more options.
        read_options: What they say, which belongs to what the data set was made with. It may raise ``ValueError``.

    Returns:
        The exit code.
    """
    parser, args = read_arguments(description, train=train, val=val, unit=unit, add_options=add_options)
    marker = f'{name}.json'
    try:
        options = read_options(args)
        spec = dict(format=1, train=args.train, val=args.val, seed=args.seed, **options)
        out = real_folder(args.out)
        said, before = look(out, marker)
        if is_made(said, before, spec):
            print(f'{args.out}: already there')
            return 0
        check_ours(out, said, before, marker)
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f'{out.name}.partial-', dir=out.parent))
    except ValueError as e:
        parser.error(str(e))
    except OSError as e:
        parser.error(f'OUT must be a folder that can be written, got {args.out}: {e}')
    new = work / 'new'
    try:
        for number, (split, count) in enumerate((('train', args.train), ('val', args.val))):
            summary = write_split(new, split, count, (args.seed, number), **options)
            print(f'{args.out}: {split}, {count} {unit}, {summary}')
        (new / marker).write_text(json.dumps(dict(spec, files=contents(new))))
        replaced = replace(out, before, new, work / 'old')
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if not any(work.iterdir()):
            work.rmdir()
    if not replaced:
        try:
            if not is_made(*look(out, marker), spec):
                raise ValueError('it holds another data set')
        except ValueError as e:
            parser.error(f'{args.out} was changed by another process and is left as it is: {e}')
        print(f'{args.out}: made by another process')
    return 0


def read_arguments(
        description: str, *, train: int, val: int, unit: str,
        add_options: Callable[[argparse.ArgumentParser], None]) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Reads the command line: ``out``, ``train``, ``val``, ``seed``, and others."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='folder to write; must be absent, empty or an earlier result. A run '
                        'that is killed leaves a folder OUT.partial-* beside it, which may be deleted')
    parser.add_argument('--train', type=int, default=train, help=f'{unit} to train on (default {train})')
    parser.add_argument('--val', type=int, default=val, help=f'{unit} to test on (default {val})')
    parser.add_argument('--seed', type=int, default=0, help='another seed gives another data set (default 0)')
    add_options(parser)
    args = parser.parse_args()
    for option in ('train', 'val'):
        if getattr(args, option) < 1:
            parser.error(f'--{option} must be >= 1 {unit}, got {getattr(args, option)}')
    if args.seed < 0:
        parser.error(f'--seed must be >= 0, got {args.seed}')
    return parser, args


def real_folder(path: Path) -> Path:
    """The folder that OUT names, absent or not, links followed.

    Raises:
        ValueError: if it is a file, is below one, or is a link to nothing.
    """
    if path.is_symlink() and not path.exists():
        raise ValueError(f'OUT must be a folder, got the link {path} to nothing')
    try:
        out = path.resolve()
        parents = [p for p in (out, *out.parents) if p.exists()]
    except RuntimeError as e:  # links in a circle
        raise ValueError(f'OUT must be a folder, got {path}: {e}') from e
    if not parents[0].is_dir():
        what = 'the file' if parents[0] == out else 'a path below the file'
        raise ValueError(f'OUT must be a folder, got {what} {parents[0]}')
    return out


def contents(folder: Path) -> dict[str, str]:
    """What a folder holds: paths below it, in order, and the checksum of each file; of a folder if it is empty."""
    found = {}
    for path in sorted(folder.rglob('*')):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            found[name] = 'special'
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif not any(path.iterdir()):
            found[f'{name}/'] = 'empty'
    return found


def look(out: Path, marker: str) -> tuple[dict, dict[str, str]]:
    """What the marker of a folder says, and what the folder holds; both empty if it is absent or empty.

    Raises:
        ValueError: if there is something but no marker, or the marker is damaged.
    """
    names = sorted(p.name for p in out.iterdir()) if out.exists() else []
    if not names:
        return {}, {}
    if not (out / marker).is_file():
        raise _something_else(out, names)
    try:
        said = json.loads((out / marker).read_text())
        if isinstance(said['format'], int) and isinstance(said.get('files', {}), dict):
            return said, contents(out)
    except (ValueError, TypeError, KeyError):
        pass
    raise ValueError(f'OUT must be absent, empty or an earlier result, but {out / marker} is damaged')


def is_made(said: dict, found: dict[str, str], spec: dict) -> bool:
    """Whether a folder whose marker says ``said`` has the data set of ``spec``, whatever else is in it."""
    # a marker without a list of files is of an earlier version, which made the same
    return {k: v for k, v in said.items() if k != 'files'} == spec and said.get('files', {}).keys() <= found.keys()


def check_ours(out: Path, said: dict, found: dict[str, str], marker: str) -> None:
    """Checks that a folder holds nothing but what its marker says was made.

    Raises:
        ValueError: if it does, or the marker does not say what was made.
    """
    made = said.get('files', {})
    others = [name for name, checksum in found.items() if made.get(name) != checksum and name != marker]
    if others:
        raise _something_else(out, others)


def _something_else(out: Path, names: list[str]) -> ValueError:
    return ValueError(f'OUT must be absent, empty or an earlier result, but {out} holds something else: '
                      f'{", ".join(names[:5])}{", ..." if len(names) > 5 else ""} ({len(names)} in all)')


def replace(out: Path, before: dict[str, str], new: Path, old: Path) -> bool:
    """Puts the folder ``new`` in the place of ``out``, by way of ``old``, if that holds what it held ``before``.

    Returns:
        Whether it was; otherwise ``out`` is left as it is.
    """
    try:
        if contents(out) != before:
            return False
        if before:
            os.rename(out, old)
    except FileNotFoundError:  # taken away meanwhile
        return False
    if before and contents(old) != before:
        os.rename(old, out)
        return False
    try:
        os.rename(new, out)  # also over an empty folder
    except OSError as e:
        if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    finally:
        if before and not out.exists():
            os.rename(old, out)
    if before:
        shutil.rmtree(old)
    return True


def crop(photograph: np.ndarray, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """A piece of a photograph at a random place and scale, maybe mirrored, shape (height, width, 3)."""
    h, w = photograph.shape[:2]
    most = min(w / width, h / height)
    scale = rng.uniform(min(.6, most), min(most, 2.))  # photograph pixels per pixel
    cw, ch = int(width * scale), int(height * scale)
    x, y = rng.integers(w - cw, endpoint=True), rng.integers(h - ch, endpoint=True)
    piece = Image.fromarray(photograph[y:y + ch, x:x + cw]).resize((width, height), Image.Resampling.BILINEAR)
    piece = np.asarray(piece)
    return piece[:, ::-1] if rng.random() < .5 else piece
