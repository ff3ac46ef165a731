"""Properties over the space of sizes, windows, shifts and masks, with hypothesis."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from helpers.backbones import randomize
from mmswinv2.core.attention import AttentionConfig, WindowAttention
from mmswinv2.core.position_bias import ContinuousBias, crop, expand

pytestmark = pytest.mark.core

LENGTHS = st.integers(1, 14)
WINDOWS = st.integers(2, 7)
# deterministic in CI; the slow marker runs many more
thorough = settings(max_examples=1500, derandomize=False)  # another sample of the space in each run


def check_attention(axes, shifted, mask_padding, kind, batch, scale):
    lengths, window, pretrained = zip(*axes)
    attn = randomize(WindowAttention(4, 2, window_size=window, pretrained_window=pretrained, config=AttentionConfig(
        position_bias=kind, mask_padding=mask_padding)).double())
    with torch.no_grad():
        attn.logit_scale.fill_(scale)
    x = torch.randn(batch, *lengths, 4, dtype=torch.float64, requires_grad=True)
    ours = attn(x, shifted=shifted)
    state = attn.state_dict(keep_vars=True)
    theirs = reference.attention(state, '', x, 2, window, pretrained, shifted, kind, mask_padding)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    probe = torch.randn(ours.shape, dtype=ours.dtype)
    inputs = [x, *attn.parameters()]
    for a, b in zip(*(torch.autograd.grad((out * probe).sum(), inputs, allow_unused=True) for out in (ours, theirs))):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


AXES = st.lists(st.tuples(LENGTHS, WINDOWS, WINDOWS), min_size=1, max_size=2) | st.lists(  # three of fewer tokens
    st.tuples(st.integers(1, 7), st.integers(1, 4), st.integers(1, 4)), min_size=3, max_size=3)
ATTENTION = (AXES, st.booleans(), st.booleans(), st.sampled_from(['log_cpb', 'linear_cpb', 'parameterized']),
             st.integers(1, 2), st.sampled_from([-1., 2.3, 9.]))


@given(*ATTENTION)
def test_attention_equals_the_reference(axes, shifted, mask_padding, kind, batch, scale):
    check_attention(axes, shifted, mask_padding, kind, batch, scale)


def check_locality(h, w, window, shifted):
    """By autograd: a token depends on the tokens of its cell, on all of them, and on no other."""
    attn = randomize(WindowAttention(4, 1, window_size=window, pretrained_window=window,
                                     config=AttentionConfig()).double())
    x = torch.randn(1, h, w, 4, dtype=torch.float64, requires_grad=True)
    y = attn(x, shifted=shifted)
    sizes = [min(n, size) for n, size in zip((h, w), window)]
    shifts = [size // 2 if shifted and n > size else 0 for n, size in zip((h, w), sizes)]

    def cell(i, j):
        return (i - shifts[0]) // sizes[0], (j - shifts[1]) // sizes[1]

    for i, j in {(0, 0), (h - 1, w - 1), (h // 2, w - 1), (h - 1, 0), (h // 2, w // 2)}:
        grad, = torch.autograd.grad(y[0, i, j].sum(), x, retain_graph=True)
        reached = {tuple(t) for t in grad[0].abs().sum(-1).nonzero().tolist()}
        assert reached == {(p, q) for p in range(h) for q in range(w) if cell(p, q) == cell(i, j)}


@given(LENGTHS, LENGTHS, st.tuples(WINDOWS, WINDOWS), st.booleans())
@settings(max_examples=20)
def test_locality(h, w, window, shifted):
    check_locality(h, w, window, shifted)


@given(st.tuples(WINDOWS, WINDOWS), st.tuples(WINDOWS, WINDOWS), st.tuples(WINDOWS, WINDOWS), st.booleans())
def test_the_bias_of_a_small_window_is_the_restriction_of_a_large_ones(first, second, pretrained, log_spaced):
    large = tuple(max(a, b) for a, b in zip(first, second))
    small = tuple(min(a, b) for a, b in zip(first, second))
    cpb = randomize(ContinuousBias(2, log_spaced=log_spaced).double())
    table = cpb(small, pretrained, dtype=torch.float64)
    whole = cpb(large, pretrained, dtype=torch.float64)
    torch.testing.assert_close(crop(whole, small), table, rtol=0, atol=1e-12)
    pairs = expand(whole).view(2, *large, *large)
    pairs = pairs[:, :small[0], :small[1], :small[0], :small[1]].flatten(3).flatten(1, 2)
    torch.testing.assert_close(pairs, expand(table), rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize('check, space', [
    (check_attention, ATTENTION),
    (check_locality, (LENGTHS, LENGTHS, st.tuples(WINDOWS, WINDOWS), st.booleans())),
])
def test_many_more(check, space):
    given(*space)(thorough(check))()
