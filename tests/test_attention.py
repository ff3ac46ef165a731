"""Normalisation, bias tables and attention at their edges."""
import itertools
import math

import pytest
import torch

from helpers.backbones import randomize
from mmswinv2.core.attention import AttentionConfig, WindowAttention, cosine_normalize
from mmswinv2.core.position_bias import expand, fold, relative_coordinates

pytestmark = pytest.mark.core


def test_a_row_of_zeros_is_zero_with_a_zero_gradient():
    x = torch.zeros(3, 4, requires_grad=True)
    y = cosine_normalize(x)
    y.backward(torch.ones_like(y))
    assert torch.equal(y, torch.zeros(3, 4)) and torch.equal(x.grad, torch.zeros(3, 4))
    assert cosine_normalize(torch.ones(2, 4, dtype=torch.float16)).dtype == torch.float32


@pytest.mark.parametrize('scale', [1e-30, 1e-8, 1., 1e30])
def test_rows_of_any_length_become_unit_rows(scale, rng):
    x = torch.randn(5, 8, generator=rng, dtype=torch.float64)
    y = cosine_normalize((x * scale).float())
    torch.testing.assert_close(y.double(), x / x.norm(dim=-1, keepdim=True), rtol=1e-6, atol=1e-6)
    assert torch.autograd.gradcheck(cosine_normalize, x.requires_grad_())


def test_coordinates_are_those_of_the_release():
    coords = relative_coordinates((3, 2), (4, 3), dtype=torch.float64)
    assert coords.shape == (5, 3, 2)
    expected = math.log2(1 + 8 * 2 / 3) / 3
    assert coords[4, 0].tolist() == pytest.approx([expected, -math.log2(1 + 8 / 2) / 3])
    assert coords[2, 1].tolist() == [0., 0.]
    # within the window of pre-training the largest one is log2(9) / 3
    assert relative_coordinates((8, 8), (8, 8)).max().item() == pytest.approx(math.log2(9) / 3)
    # a larger window extrapolates
    small, large = (relative_coordinates((w, w), (12, 12)) for w in (12, 32))
    torch.testing.assert_close(large[20:43, 20:43], small, rtol=0, atol=0)
    # an axis of one token has the offset 0 alone; where the window of pre-training is 1, offsets are divided by 1
    coords = relative_coordinates((1, 3), (8, 1), dtype=torch.float64, log_spaced=False)
    assert coords.tolist() == [[[0, -2], [0, -1], [0, 0], [0, 1], [0, 2]]]


WINDOWS = [(5,), (2, 3), (1, 4), (2, 3, 4), (1, 3, 2)]


@pytest.mark.parametrize('window', WINDOWS)
def test_expand_places_offsets(window, rng):
    table = torch.randn(2, *(2 * size - 1 for size in window), generator=rng)
    bias = expand(table)
    positions = list(itertools.product(*map(range, window)))
    assert bias.shape == (2, len(positions), len(positions))
    for (i, query), (j, key) in itertools.product(enumerate(positions), repeat=2):
        at = tuple(q - k + size - 1 for q, k, size in zip(query, key, window))
        assert torch.equal(bias[:, i, j], table[(slice(None), *at)])


@pytest.mark.parametrize('window', WINDOWS)
def test_fold_is_the_adjoint_of_expand(window, rng):
    table = torch.randn(3, *(2 * size - 1 for size in window), generator=rng, dtype=torch.float64, requires_grad=True)
    bias = expand(table)
    probe = torch.randn(bias.shape, generator=rng, dtype=torch.float64)
    grad, = torch.autograd.grad(bias, table, probe)
    torch.testing.assert_close(fold(probe, window), grad, rtol=1e-12, atol=1e-12)


def test_attention_dropout_acts_in_training_only(rng):
    attn = randomize(WindowAttention(8, 2, window_size=(4, 4), pretrained_window=(4, 4),
                                     config=AttentionConfig(attn_drop_rate=.5)))
    x = torch.randn(1, 8, 8, 8, generator=rng)
    assert not torch.equal(attn.train()(x), attn(x))
    assert torch.equal(attn.eval()(x), attn(x))
