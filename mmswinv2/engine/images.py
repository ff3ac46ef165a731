"""Images of a user's own: those below a folder, and the steps of a pipeline that need nothing else."""
from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
ANNOTATIONS = ('LoadAnnotations', 'LoadPanopticAnnotations', 'CheckLabels')  # steps that want what is not there


def image_files(folder: str | Path) -> tuple[list[Path], list[Path]]:
    """The images below a folder, in the order of their names.

    Links to folders are followed, except those to a folder that they lie in.

    Returns:
        (images, by their suffix in any case; folders that cannot be read and links that lead nowhere).
    """
    images: list[Path] = []
    lost: list[Path] = []
    for name, folders, files in os.walk(folder, followlinks=True,
                                        onerror=lambda e: lost.append(Path(e.filename or folder))):
        here = Path(name)
        folders[:] = [sub for sub in folders if not (here / sub).is_symlink() or not leads_up(here / sub)]
        for path in map(here.joinpath, files):
            if path.suffix.lower() in SUFFIXES:
                images.append(path)
            elif path.is_symlink() and not os.path.exists(path):
                lost.append(path)
    return sorted(images), sorted(lost)


def leads_up(link: Path) -> bool:
    """Whether a link leads to a folder that it lies in, as its path is written or as it is on the disk."""
    parents = map(Path, {os.path.realpath(parent) for parent in link.absolute().parents})
    return Path(os.path.realpath(link)) in {folder for parent in parents for folder in (parent, *parent.parents)}


def without_annotations(steps: list) -> list:
    """The steps of a pipeline that need the image alone."""
    kept = []
    for step in steps:
        if isinstance(step, Mapping):
            kind = step['type'] if isinstance(step['type'], str) else step['type'].__name__
            if kind.rpartition('.')[2] in ANNOTATIONS:
                continue
            if 'transforms' in step:  # TestTimeAug has alternatives, others a list
                inner = step['transforms']
                inner = [without_annotations(group) for group in inner] if isinstance(inner[0], (list, tuple)) else (
                    without_annotations(inner))
                step = dict(step, transforms=[group for group in inner if group])
        kept.append(step)
    return kept
