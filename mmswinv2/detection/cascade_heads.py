"""The RoI heads of cascades with one number of classes, which all their stages take."""
from __future__ import annotations

from mmdet.models.roi_heads import CascadeRoIHead as _CascadeRoIHead

from ..core.checks import check_int
from ..registry import MODELS

Heads = dict | list[dict] | None  # configs: one for all stages, or one for each


class SharedNumClasses:
    """Gives ``num_classes`` to each box and mask head of a cascade; comes before mmdet's RoI head among the bases.

    Args:
        num_classes: Of each head, >= 1, in place of the number that all heads have, as in mmdet's own configs; None:
            as the heads say.
        bbox_head: As of mmdet's class.
        mask_head: As of mmdet's class.
        kwargs: As of mmdet's class.

    Raises:
        ValueError: if ``num_classes`` is no integer >= 1, or heads of one list differ and one says another number.
    """

    def __init__(self, *, num_classes: int | None = None, bbox_head: Heads = None, mask_head: Heads = None,
                 **kwargs) -> None:
        if num_classes is not None:
            num_classes = check_int('num_classes', num_classes, minimum=1, unit=' or None')
            bbox_head = with_classes('bbox_head', bbox_head, num_classes)
            mask_head = with_classes('mask_head', mask_head, num_classes)
        super().__init__(bbox_head=bbox_head, mask_head=mask_head, **kwargs)


def with_classes(name: str, heads: Heads, num_classes: int) -> Heads:
    """Configs of heads with their number of classes.

    Raises:
        ValueError: if heads of a list differ in what they say, and one says another number.
    """
    if heads is None:
        return None
    said = [head.get('num_classes') for head in (heads if isinstance(heads, list) else [heads])]
    other = [stage for stage, number in enumerate(said) if number not in (None, num_classes)]
    if other and len(set(said)) > 1:
        raise ValueError(f'{name}.{other[0]}.num_classes must be left out or be {num_classes}, the num_classes of the '
                         f'RoI head, or be the same in all stages, got {said[other[0]]}')
    if isinstance(heads, list):
        return [dict(head, num_classes=num_classes) for head in heads]
    return dict(heads, num_classes=num_classes)


@MODELS.register_module()
class CascadeRoIHead(SharedNumClasses, _CascadeRoIHead):
    """mmdet's ``CascadeRoIHead`` with one ``num_classes`` for all its box and mask heads."""
