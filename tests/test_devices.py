"""Tensors that are made once per device: when they are kept, and when not."""
import pytest
import torch
from torch._subclasses import FakeTensorMode

from mmswinv2.core.position_bias import ContinuousBias
from mmswinv2.core.torch_compat import cached_per_device, device_type, meta_stands_for

pytestmark = pytest.mark.core


@pytest.fixture
def function():
    calls = []

    @cached_per_device
    def ones(n, device):
        calls.append(n)
        return torch.ones(n, device=device)
    return ones, calls


def test_cached_per_device_per_size_and_device(function):
    ones, calls = function
    cpu, meta = torch.device('cpu'), torch.device('meta')
    assert ones(2, cpu) is ones(2, cpu) and ones(2, meta) is ones(2, meta)
    assert ones(2, cpu) is not ones(3, cpu) and calls == [2, 2, 3]


def test_fake_tensors_are_not_kept(function):
    ones, calls = function
    kept = ones(2, torch.device('cpu'))
    with FakeTensorMode():
        assert type(ones(2, torch.device('cpu'))) is not torch.Tensor
        ones(3, torch.device('cpu'))
    assert ones(2, torch.device('cpu')) is kept
    assert type(ones(3, torch.device('cpu'))) is torch.Tensor and calls == [2, 2, 3, 3]


def test_nothing_is_kept_under_torch_func(function):
    ones, calls = function
    torch.func.grad(lambda x: (x * ones(2, torch.device('cpu'))).sum())(torch.zeros(2))
    ones(2, torch.device('cpu'))
    assert calls == [2, 2]


def test_what_was_made_in_inference_mode_can_be_trained_with():
    bias = ContinuousBias(2)
    with torch.inference_mode():
        bias((3, 5), (7, 7))
    bias((3, 5), (7, 7)).sum().backward()
    assert bias[0].weight.grad.any()


def test_the_meta_device_stands_for_another():
    meta = torch.device('meta')
    with meta_stands_for('cuda'):
        assert device_type(meta) == 'cuda' and device_type(torch.device('cpu')) == 'cpu'
    assert device_type(meta) == 'meta'
