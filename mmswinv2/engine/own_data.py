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
    """(width, height) of an image in pixels, from its header.

    Args:
        path: The file.
        turn: Whether the reader turns the image as its EXIF says: it does for images, not for masks.

    Raises:
        ValueError: if it is missing or no image.
    """
    from PIL import Image
    try:
        with Image.open(path) as image:
            size, orientation = image.size, image.getexif().get(ORIENTATION)
    except OSError as e:
        raise ValueError(f'{path} must be an image, got {type(e).__name__}') from e
    return size[::-1] if turn and orientation in TURNED else size


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
    """Refuses to train or test with heads of another number of classes than the data set's.

    With fewer rows training ends in an index error, on a GPU in an assertion without a name; with more, rows are
    trained for nothing. Data sets without ``metainfo['classes']`` pass.

    Raises:
        ValueError: before training, validation or testing, if a head has another number.
    """

    def before_train(self, runner) -> None:
        """Compares with the data set of training."""
        check_heads(runner.model, runner.train_loop.dataloader.dataset)

    def before_val(self, runner) -> None:
        """Compares with the data set of validation."""
        check_heads(runner.model, runner.val_loop.dataloader.dataset)

    def before_test(self, runner) -> None:
        """Compares with the data set of the test."""
        check_heads(runner.model, runner.test_loop.dataloader.dataset)


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
