"""Reads annotated images of labelme, COCO, VOC and YOLO for prepare_data.py: each object as in COCO's format."""
from __future__ import annotations

import base64
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import yaml
from PIL import Image
from shapely.geometry import Polygon

from mmswinv2.core.checks import first
from mmswinv2.detection.coco_instances import check_ids, check_objects, read
from mmswinv2.engine.repairs import polygons
from mmswinv2.inputs import SUFFIXES, check_classes, image_files, raise_for, size_as_read

CIRCLE = 64  # corners of the polygon that a circle becomes
NAMES = ('data.yaml', 'data.yml', 'classes.txt', 'obj.names')  # where YOLO's classes have their names


@dataclass
class Annotated:
    """An image with its objects.

    Args:
        path: The image.
        source: The file that annotates it.
        size: (width, height) in pixels, as that file says; None if it does not.
        objects: Annotations as in COCO's format, with the name of the class as ``category`` and without ``image_id``;
            ``id`` is the place in the file, from 1, or COCO's own. Without ``segmentation`` an object is a box.
        embedded: Whether the image was in ``source`` and ``path`` is a temporary file.
    """

    path: Path
    source: Path
    size: tuple[int, int] | None
    objects: list[dict]
    embedded: bool = False


class Folder:
    """The files of a folder and what is below it.

    Args:
        path: The folder.
        without: A folder below it that is left out.

    Raises:
        ValueError: if it is none, or lies in ``without``.
    """

    def __init__(self, path: Path, without: Path) -> None:
        if not path.is_dir():
            raise ValueError(f'{path} must be a folder, which it is not')
        self.path, self.without = path, without.resolve()
        if not self._kept([path / 'a file']):
            raise ValueError(f'DST must be neither the folder of the images nor above it, {path}, got {without}')

    @cached_property
    def images(self) -> list[Path]:
        """All images, in the order of their names."""
        return self._kept(image_files(self.path)[0])

    @cached_property
    def _named(self) -> dict[str, list[Path]]:
        named = defaultdict(list)
        for image in self.images:
            named[image.name].append(image)
        return named

    def _kept(self, paths: Iterable[Path]) -> list[Path]:
        return [path for path in paths if self.without not in (path.parent.resolve() / path.name).parents]

    def files(self, pattern: str) -> list[Path]:
        """The files of a pattern, in the order of their names; it is an error if there are none."""
        found = self._kept(sorted(self.path.rglob(pattern)))
        if not found:
            raise ValueError(f'{self.path} must have files {pattern} in it or below, got none')
        return found

    def image(self, names: Iterable[str], near: Iterable[Path], source: Path) -> Path:
        """The image of one of these names.

        Args:
            names: Relative to one of the folders ``near``, or else to any, or else of an image that lies anywhere.
            near: Folders to look in first.
            source: The file that has the name.

        Raises:
            ValueError: if there is none, or more than one; or of a suffix that is not read.
        """
        names = [name.replace('\\', '/') for name in names]
        paths = [path for folder in near for name in names if (path := folder / name).is_file()]
        paths = self._kept(paths[:1])
        paths = paths or list(dict.fromkeys(path for name in names for path in self._named[Path(name).name]))
        inner = [path for path in paths if path.as_posix().endswith(f'/{names[0]}')]
        paths = inner or paths
        if len(paths) != 1:
            found = f'{len(paths)}: {first(map(str, paths))}' if paths else 'none'
            raise ValueError(f'{source} must name one image in {self.path} or below, got {names[0]!r}, found {found}')
        if paths[0].suffix.lower() not in SUFFIXES:
            raise ValueError(f'{paths[0]} must be an image of a suffix among {", ".join(SUFFIXES)}')
        return paths[0]


@contextmanager
def reading(path: Path | str, what: str) -> Iterator[None]:
    """Whatever fails in it is an error that names the file."""
    try:
        yield
    except Exception as e:  # what a file has instead is as various as what is wrong with it
        raise ValueError(f'{path} must be {what}, got {type(e).__name__}: {e}') from e


def outlined(polygons: list[np.ndarray]) -> dict:
    """An object with polygons, each (points, 2) in pixels."""
    points, area = np.concatenate(polygons), sum(Polygon(polygon).area for polygon in polygons)
    return dict(boxed(*points.min(0), *points.max(0)), segmentation=[p.ravel().tolist() for p in polygons], area=area)


def boxed(left: float, top: float, right: float, bottom: float) -> dict:
    """An object with a box alone."""
    w, h = float(right - left), float(bottom - top)
    return dict(bbox=[float(left), float(top), w, h], area=w * h, iscrowd=0)


def read_labelme(folder: Folder, scratch: Path) -> tuple[list[Annotated], list[str]]:
    """A folder of labelme's: a JSON file for each image, with polygons, rectangles and circles.

    Shapes of one label and group are one object. A rectangle is a box.

    Args:
        folder: The folder.
        scratch: Where images that are in the JSON files alone are written.

    Returns:
        (the images, the names of classes in alphabetical order).

    Raises:
        ValueError: if a file is not as labelme writes it, has other shapes, or its image is missing.

    Source:
        labelme, ``labelme/label_file.py``, ``labelme/utils/shape.py``.
    """
    images = []
    for path in folder.files('*.json'):
        with reading(path, "a file of labelme's"):
            content = json.loads(path.read_text(encoding='utf-8'))
            shapes = [(str(s['label']), str(s.get('shape_type') or 'polygon'), s.get('group_id'),
                       np.array(s['points'], dtype=float).reshape(-1, 2)) for s in content['shapes']]
            if not all(np.isfinite(points).all() for *_, points in shapes):
                raise ValueError('a coordinate that is no number')
            size = content.get('imageWidth'), content.get('imageHeight')
            name, data = str(content['imagePath']), content.get('imageData')
        embedded = data and not (path.parent / name.replace('\\', '/')).is_file()
        if embedded:
            with reading(path, "a file of labelme's with an image in imageData"):
                data = base64.b64decode(data)
                suffix = Image.open(io.BytesIO(data)).format.lower()
            image = scratch / path.relative_to(folder.path).with_suffix(f'.{suffix}')
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(data)
        else:
            image = folder.image([name], [path.parent], path)
        if None in size:
            size = size_as_read(image)
        objects: dict[tuple, list] = defaultdict(list)  # by group
        for number, (label, kind, group, points) in enumerate(shapes, start=1):
            fits = dict(polygon=len(points) >= 3, rectangle=len(points) in (2, 4), circle=len(points) == 2)
            if not fits.get(kind):
                raise ValueError(f'{path}: a shape must be a polygon of three points or more, a rectangle or a circle '
                                 f'of two, got shape {number}, {label!r}: {kind} of {len(points)}')
            if kind == 'circle':
                angles = np.linspace(0, 2 * np.pi, CIRCLE, endpoint=False)
                radius = np.linalg.norm(points[1] - points[0])
                points = points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
                points = points.clip(0, size)  # labelme lets circles leave the image
            objects[label, number if group is None else f'group {group}'].append((number, kind, points))
        images.append(Annotated(image, path, size, [], embedded=bool(embedded)))
        for (label, _), parts in objects.items():
            numbers, kinds, points = zip(*parts)
            corners = np.concatenate(points)
            found = (boxed(*corners.min(0), *corners.max(0)) if 'rectangle' in kinds else outlined(list(points)))
            images[-1].objects.append(dict(found, id=numbers[0], category=label))
    return images, sorted({o['category'] for image in images for o in image.objects})


def read_coco(path: Path, folder: Folder) -> tuple[list[Annotated], list[str]]:
    """A file in COCO's format.

    Args:
        path: The file.
        folder: Where its images are, or below.

    Returns:
        (the images, the names of classes in the order of ``categories``).

    Raises:
        ValueError: if it is not in COCO's format, its ids do not fit, or an image is missing.
    """
    coco = read(str(path))
    check_ids(coco, str(path))
    names = {c['id']: c['name'] for c in coco['categories']}
    images = {i['id']: Annotated(folder.image([i['file_name']], [folder.path], path), path, (i['width'], i['height']),
                                 []) for i in coco['images']}
    for a in coco['annotations']:
        kept = {key: a[key] for key in ('segmentation', 'ignore') if a.get(key)}
        if polygons(kept.get('segmentation')):  # without parts of two points
            kept['segmentation'] = polygons(kept['segmentation'])
        images[a['image_id']].objects.append(
            dict(kept, id=a['id'], bbox=a['bbox'], area=a['area'], iscrowd=a.get('iscrowd') or 0,
                 category=names[a['category_id']]))
    return list(images.values()), list(names.values())


def read_voc(folder: Folder) -> tuple[list[Annotated], list[str]]:
    """A folder of VOC's: an XML file for each image, beside it or in Annotations/ beside JPEGImages/.

    Corners count pixels from 1 and are inside the box. What is marked as difficult becomes a crowd, which is neither
    trained on nor counted as missing.

    Returns:
        (the images, the names of classes in alphabetical order).

    Raises:
        ValueError: if a file is not as VOC has it, or its image is missing.
    """
    images = []
    for path in folder.files('*.xml'):
        with reading(path, "an annotation in VOC's format"):
            root = ElementTree.parse(path).getroot()
            size = tuple(int(float(root.findtext(f'size/{side}') or 0)) for side in ('width', 'height'))
            objects = []
            for number, item in enumerate(root.findall('object'), start=1):
                left, top, right, bottom = (float(item.find('bndbox').findtext(side))
                                            for side in ('xmin', 'ymin', 'xmax', 'ymax'))
                box = boxed(max(left - 1, 0), max(top - 1, 0), right, bottom)
                difficult = int(item.findtext('difficult') or 0)
                objects.append(dict(box, id=number, category=item.find('name').text.strip(), iscrowd=difficult))
        names = [root.findtext('filename') or '', *(path.stem + suffix for suffix in SUFFIXES)]
        image = folder.image(names, [path.parent, path.parent.parent / 'JPEGImages'], path)
        images.append(Annotated(image, path, size if all(size) else None, objects))
    return images, sorted({o['category'] for image in images for o in image.objects})


def read_yolo(folder: Folder) -> tuple[list[Annotated], list[str]]:
    """A folder of YOLO's: a text file for each image, beside it or in labels/ where the image is in images/.

    A line is the number of a class and a box (centre, width, height), or a polygon of three points or more, in widths
    and heights of the image. An image without a file has no objects.

    Returns:
        (the images, the names of classes in their order).

    Raises:
        ValueError: if there are no names, a line is none of these, or a file in labels/ has no image.
    """
    names = yolo_names(folder)
    labels = {path for path in folder.files('*.txt')}
    images = []
    for image in folder.images:
        parts = list(image.relative_to(folder.path).parts)
        beside = image.with_suffix('.txt')
        if 'images' in parts:
            place = len(parts) - 1 - parts[::-1].index('images')
            beside = folder.path.joinpath(*parts[:place], 'labels', *parts[place + 1:]).with_suffix('.txt')
        source = beside if beside in labels else image.with_suffix('.txt')
        width, height = size_as_read(image)
        images.append(Annotated(image, source, None, []))
        lines = source.read_text(encoding='utf-8').splitlines() if source in labels else []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f'{source}, line {number}'
            with reading(where, 'numbers'):
                label, *values = map(float, line.split())
            fits = len(values) == 4 or len(values) >= 6 and len(values) % 2 == 0
            if not fits or not all(-.001 <= value <= 1.001 for value in values):
                raise ValueError(f'{where} must be a class and the four numbers of a box, or the points of a polygon, '
                                 f'three or more, from 0 to 1, got {line[:80]!r}')
            if label not in range(len(names)):
                raise ValueError(f'{where}: a class must be 0 to {len(names) - 1}, as there are names, got {label:g}')
            points = np.reshape(values, (-1, 2)) * (width, height)
            found = outlined([points]) if len(points) > 2 else boxed(*points[0] - points[1] / 2,
                                                                     *points[0] + points[1] / 2)
            images[-1].objects.append(dict(found, id=number, category=names[int(label)]))
    used = {image.source for image in images}
    unused = [str(path) for path in sorted(labels - used) if 'labels' in path.parts and path.name not in NAMES]
    raise_for({'files in labels must have an image of their name in images': unused}, str(folder.path))
    return images, names


def yolo_names(folder: Folder) -> list[str]:
    """The names of YOLO's classes, from the first of ``NAMES`` that is there.

    Raises:
        ValueError: if there is none, or they are no list of different names.
    """
    paths = [path for name in NAMES for path in sorted(folder.path.rglob(name))]
    if not paths:
        raise ValueError(f'{folder.path} must have the names of classes in {", ".join(NAMES)}, got none of these')
    with reading(paths[0], 'a file with the names of classes'):
        text = paths[0].read_text(encoding='utf-8')
        if paths[0].suffix in ('.yaml', '.yml'):
            names = yaml.safe_load(text)['names']
            names = [names[i] for i in range(len(names))] if isinstance(names, dict) else names
        else:
            names = [line.strip() for line in text.splitlines() if line.strip()]
    return [str(name) for name in names]


def check(images: list[Annotated], classes: list[str], src: Path, *, masks: bool) -> None:
    """Checks images and objects as training does; gives each image the size of its file.

    Raises:
        ValueError: if something does not fit.
    """
    try:
        check_classes([*(['background'] if masks else []), *classes])
    except ValueError as e:
        raise ValueError(f'{src}: {e}') from e
    if masks and len(classes) > 254:
        raise ValueError(f'{src}: classes must be 254 at most for --masks, got {len(classes)}')
    annotated = sum(bool(image.objects) for image in images)
    if annotated < 2:
        raise ValueError(f'{src}: two images must have objects, one to train and one to validate with, got {annotated} '
                         f'of {len(images)} images')
    times, wrong = Counter(image.path.resolve() for image in images), []
    for image in images:
        said, image.size = image.size, size_as_read(image.path)
        if said and said != image.size:
            stored = size_as_read(image.path, turn=False) == said
            wrong.append('{} is {} x {} px, not {} x {} as in {}'.format(image.path, *image.size, *said, image.source) +
                         ' (its size as stored: the annotation tool did not turn it by its EXIF orientation)' * stored)
    raise_for({'an image must be annotated once': [str(path) for path, number in times.items() if number > 1],
               'width and height must be those of the image, turned as its EXIF says': wrong,
               '--masks needs a polygon of each object': [
                   f'object {o["id"]} in {image.source}' for image in images for o in image.objects
                   if masks and 'segmentation' not in o]}, str(src))
    objects = [dict(o, image_id=i) for i, image in enumerate(images) for o in image.objects]
    named = {i: dict(file_name=str(image.path), width=image.size[0], height=image.size[1])
             for i, image in enumerate(images)}
    check_objects(objects, objects, named, str(src), masks=False, min_size=0)
    check_objects(objects, [o for o in objects if 'segmentation' in o], named, str(src), masks=True, min_size=0)
