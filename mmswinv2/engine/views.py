"""Checks the input of models for test-time augmentation."""
from __future__ import annotations


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
