"""Clips in float64 as well: mmaction2 normalises them in place, in float32. Imported by configs of tests alone."""
from mmaction.models import ActionDataPreprocessor

forward = ActionDataPreprocessor.forward


def doubled(self, data, training=False):
    """As mmaction2 does it, in float64."""
    data = forward(self, data, training)
    return dict(data, inputs=data['inputs'].double())


ActionDataPreprocessor.forward = doubled
