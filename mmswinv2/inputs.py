"""Checks of what a person gives, for all hosts: names of classes, files of images, views of test-time augmentation."""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from .core.checks import first, is_list

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
ANNOTATIONS = ('LoadAnnotations', 'LoadPanopticAnnotations', 'CheckLabels')  # steps that want what is not there
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: the tag, and its values that swap width and height
HEADERS = ('BMP', 'PNG', 'TIFF', 'WEBP')  # formats that OpenCV reads, but for TIFFs of 32 bits a channel (modes F, I)


def check_classes(classes: Sequence[str] | None) -> None:
    """Checks the names of classes.

    Raises:
        ValueError: if they are no list of different names; one name in brackets without a comma is none.
    """
    names = tuple(classes) if is_list(classes) else ()
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError("metainfo.classes must be a list of names, such as classes = ('cat', ) with a comma, "
                         f'got {classes!r}')
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f'metainfo.classes must be different names, got {", ".join(repeated)} more than once')


def with_palette(metainfo: Mapping | None) -> dict:
    """Names of classes with a colour for each, by which pictures tell them apart.

    Args:
        metainfo: ``classes``, and ``palette``, red, green and blue of each class, 0 to 255; without it, colours are
            chosen by :func:`distinct_colours`, and a class called background is black.

    Raises:
        ValueError: if ``classes`` is no list of different names, or ``palette`` no list of as many colours.
    """
    metainfo = dict(metainfo or {})
    check_classes(metainfo.get('classes'))
    classes, palette = metainfo['classes'], metainfo.get('palette')
    if palette is None:
        others = [name for name in classes if name != 'background']
        colours = dict(zip(others, distinct_colours(len(others))), background=(0, 0, 0))
        palette = [colours[name] for name in classes]
    if not is_list(palette) or len(palette) != len(classes) or not all(is_list(c) and len(c) == 3 for c in palette):
        raise ValueError('metainfo.palette must have red, green and blue of each of metainfo.classes, '
                         f'{len(classes)} colours, got {palette!r}')
    return dict(metainfo, palette=[tuple(colour) for colour in palette])  # mmdet takes a tuple for one colour


def distinct_colours(number: int) -> list[tuple[int, int, int]]:
    """Colours, RGB from 0 to 255, that differ as much as possible; the first ones are the same for each number.

    Each is the farthest from those before it, and from black, white and grey, among 343 colours in CIELAB.
    """
    import cv2
    import numpy as np
    steps = np.linspace(0, 255, 7).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    lab = cv2.cvtColor(np.float32(colours / 255), cv2.COLOR_RGB2LAB)[0]
    greys = np.array([(light, 0, 0) for light in (0, 50, 100)])
    distance = np.linalg.norm(lab[:, None] - greys, axis=-1).min(1)
    chosen: list[tuple[int, int, int]] = []
    for _ in range(number):
        farthest = int(distance.argmax())
        chosen.append(tuple(colours[0, farthest].tolist()))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[farthest], axis=-1))
    return chosen


def size_as_read(path: str | Path, *, turn: bool = True) -> tuple[int, int]:
    """(width, height) of an image in pixels as MMCV reads it, from its header where that is certain.

    OpenCV, with which MMCV reads images, goes by EXIF alone, turns a TIFF whatever it is told, and cannot read each
    file that Pillow, with which masks are read, can.

    Args:
        path: The file.
        turn: Whether the reader turns the image as its EXIF says: it does for images, not for masks.

    Raises:
        ValueError: if it is missing, no image, or cannot be read.
    """
    from mmcv import imread
    from PIL import Image
    try:
        with open(path, 'rb') as file, Image.open(file) as image:  # as MMCV does: a path is read in another way
            if image.format in ('JPEG', 'MPO'):
                exif = Image.Exif()
                exif.load(image.info.get('exif', b''))  # getexif() has what stands in XMP, too
                return image.size[::-1] if turn and exif.get(ORIENTATION) in TURNED else image.size
            tagged = (b'eXIf' in Path(path).read_bytes() if image.format == 'PNG' else  # it may stand after the pixels
                      image.getexif().get(ORIENTATION) in TURNED)
            if image.format in HEADERS and image.mode not in ('F', 'I') and not tagged:
                return image.size
            if not turn:
                image.load()
                return image.size
    except Exception as e:  # Pillow's are of many kinds
        raise ValueError(f'{path} must be an image, got {type(e).__name__}') from e
    found = imread(str(path))
    if found is None:
        raise ValueError(f'{path} must be an image that OpenCV reads, got {image.format} of mode {image.mode}')
    return found.shape[1], found.shape[0]


def raise_for(found: dict[str, list[str]], where: str) -> None:
    """Raises for the first kind of fault that was found.

    Args:
        found: What was found, by what is required.
        where: The file or folder that it was found in.

    Raises:
        ValueError: if anything was; the message has the number and the first five.
    """
    for requirement, faults in found.items():
        if faults:
            raise ValueError(f'{where}: {requirement}, got {len(faults)} that do not: {first(faults)}')


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


def check_views(data: dict) -> tuple[list, list]:
    """Checks that there are views, and a sample for each of their images.

    Args:
        data: ``inputs`` and ``data_samples``, each a list over views of lists over images, as ``TestTimeAug`` and
            ``pseudo_collate`` make them.

    Returns:
        (``inputs``, ``data_samples``).

    Raises:
        ValueError: if there are no views, or the numbers of views, images and samples do not agree.
    """
    if not isinstance(data, dict) or not {'inputs', 'data_samples'} <= set(data):
        raise ValueError(f'data must be a dict with inputs and data_samples, got {type(data).__name__}')
    inputs, samples = data['inputs'], data['data_samples']
    if len(inputs) == 0 or len(inputs[0]) == 0:
        raise ValueError('data must hold >= 1 view of >= 1 image in inputs, got '
                         + ('no views' if len(inputs) == 0 else 'no images'))
    if len(samples) != len(inputs):
        raise ValueError(f'data must have data_samples for each view in inputs, {len(inputs)}, got {len(samples)}')
    for name, views in (('inputs', inputs), ('data_samples', samples)):
        counts = [len(view) for view in views]
        if set(counts) != {len(inputs[0])}:
            raise ValueError(f'data must have as many {name} in each view as there are images, {len(inputs[0])}, got '
                             f'{counts}')
    return inputs, samples
