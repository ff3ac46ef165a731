"""What models for test-time augmentation refuse before they compute anything."""
import pytest
import torch

from mmswinv2.inputs import check_views

pytestmark = pytest.mark.mmengine


def data(images, samples):
    """Views with so many images and samples each."""
    return dict(inputs=[[torch.zeros(3, 4, 4)] * n for n in images], data_samples=[[object()] * n for n in samples])


BAD = [
    (data([], []), 'data must hold >= 1 view of >= 1 image in inputs, got no views'),
    (data([0], [0]), 'data must hold >= 1 view of >= 1 image in inputs, got no images'),
    (data([1, 1], [1]), 'data must have data_samples for each view in inputs, 2, got 1'),
    (data([1], [1, 1]), 'data must have data_samples for each view in inputs, 1, got 2'),
    (data([2, 2], [2, 1]), r'data must have as many data_samples in each view as there are images, 2, got \[2, 1\]'),
    (data([2, 1], [2, 2]), r'data must have as many inputs in each view as there are images, 2, got \[2, 1\]'),
    ([], 'data must be a dict with inputs and data_samples, got list'),
    (dict(inputs=[]), 'data must be a dict with inputs and data_samples, got dict'),
]


@pytest.mark.parametrize('given, message', BAD)
def test_what_is_missing_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        check_views(given)


def test_what_is_whole_passes():
    whole = data([2, 2, 2], [2, 2, 2])
    assert check_views(whole) == (whole['inputs'], whole['data_samples'])
