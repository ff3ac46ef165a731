"""What data sets of a user's own share: checks of class names and images, and of the heads that they train."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmengine.hooks import Hook
from torch import nn

from ..core.checks import first, is_list
from ..registry import HOOKS

HEADS = {'bbox_head', 'mask_head', 'decode_head', 'auxiliary_head'}  # with one row per class of the data set
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


@HOOKS.register_module()
class CheckClassesHook(Hook):
    """Refuses heads of another number of classes than the data set's, and to score predictions without annotations.

    With fewer rows training ends in an index error, on a GPU in an assertion without a name; with more, rows are
    trained for nothing. Data sets without ``metainfo['classes']`` pass.

    Raises:
        ValueError: before training, validation or testing, if a head has another number, or ``ann_file`` lacks what
            the evaluator needs.
    """

    def before_train(self, runner) -> None:
        """Checks with the data sets of training and validation."""
        check_heads(runner.model, runner.train_loop.dataloader.dataset)
        if getattr(runner, 'val_loop', None) is not None:
            self.before_val(runner)

    def before_val(self, runner) -> None:
        """Checks with the data set of validation."""
        check_heads(runner.model, runner.val_loop.dataloader.dataset)
        check_evaluator(runner.val_loop)

    def before_test(self, runner) -> None:
        """Checks with the data set of the test."""
        check_heads(runner.model, runner.test_loop.dataloader.dataset)
        check_evaluator(runner.test_loop)


def check_evaluator(loop) -> None:
    """Checks that a checked data set has what mmdet's metrics need.

    Raises:
        ValueError: if it has no annotations to score predictions with, or no categories to write them with.
    """
    dataset = loop.dataloader.dataset
    if getattr(dataset, 'parts', None) is None:
        return
    for metric in loop.evaluator.metrics:
        if getattr(metric, 'format_only', None) is False and 'annotations' not in dataset.parts:
            raise ValueError(f'{dataset.ann_file} must have annotations of metainfo.classes for '
                             f'{type(metric).__name__}, or the evaluator format_only=True and outfile_prefix, which '
                             'write predictions alone')
        if getattr(metric, 'format_only', None) and 'categories' not in dataset.parts:
            raise ValueError(f'{dataset.ann_file} must have categories, whose ids format_only=True writes')


def check_heads(model: nn.Module, dataset) -> None:
    """Compares the heads of a detector or segmenter with a data set.

    Raises:
        ValueError: if one has another number of classes.
    """
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if classes is None:
        return
    for name, head in model.named_modules():
        number = getattr(head, 'num_classes', None)
        if isinstance(number, int) and HEADS & set(name.split('.')) and number != len(classes):
            raise ValueError(f'num_classes of {name} must be {len(classes)}, as many as the data set has classes '
                             f'({first(list(classes))}), got {number}')
