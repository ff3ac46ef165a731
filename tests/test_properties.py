"""Properties over the space of sizes, windows, shifts and masks, with hypothesis."""
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmswinv2.core.windows import AxisWindows, window_kinds, window_partition, window_reverse

import reference
from helpers.backbones import randomize
from mmswinv2.core.attention import WindowAttention, reference_attention
from mmswinv2.core.position_bias import ContinuousBias, bias_from_table, crop_table

pytestmark = pytest.mark.core

LENGTHS = st.integers(1, 14)
WINDOWS = st.integers(2, 7)
# deterministic in CI; the slow marker runs many more
thorough = settings(max_examples=1500, derandomize=False)  # another sample of the space in each run


def axes():
    """Windows along one axis as the attention lays them: shifted by half, or not."""
    return st.builds(lambda n, w, shifted: AxisWindows.fit(n, w, w // 2 if shifted else 0), LENGTHS, WINDOWS,
                     st.booleans())


def check_round_trip(rows, cols, batch, value):
    x = torch.randn(batch, rows.length, cols.length, 3)
    windows = window_partition(x, rows, cols, value=value)
    assert windows.shape == (batch, rows.count, cols.count, rows.window * cols.window, 3)
    assert torch.equal(window_reverse(windows, rows, cols), x)
    # each token of the map is in exactly one place; the rest is padding
    ids = torch.arange(1., rows.length * cols.length + 1).view(1, rows.length, cols.length, 1)
    placed = window_partition(ids, rows, cols).flatten()
    assert placed[placed > 0].sort().values.tolist() == ids.flatten().tolist()


@given(axes(), axes(), st.integers(1, 3), st.sampled_from([None, torch.tensor([1., -2., 3.])]))
def test_reverse_undoes_partition(rows, cols, batch, value):
    check_round_trip(rows, cols, batch, value)


def token_of(axis, window, position):
    """Which token of the padded axis is at a position of a window, after the shift."""
    return (window * axis.window + position + axis.shift) % axis.padded


def check_masks(rows, cols, mask_padding):
    """Two tokens of a window may attend to each other when they are in one cell of the shifted grid, by position."""
    seen = torch.zeros(rows.count, cols.count, dtype=torch.int64)
    kinds = window_kinds(rows, cols, mask_padding=mask_padding)
    assert len(kinds) <= 9 and (len(kinds) <= 4 or rows.padded > rows.length or cols.padded > cols.length)
    for kind in kinds:
        seen[kind.rows, kind.cols] += 1
        allowed = kind.allowed(torch.device('cpu'))
        n = rows.window * cols.window
        if allowed is None:
            allowed = torch.ones(n, n, dtype=torch.bool)
        for i, j in itertools.product(range(rows.count)[kind.rows], range(cols.count)[kind.cols]):
            cells = []
            for r, c in itertools.product(range(rows.window), range(cols.window)):
                at = [token_of(rows, i, r), token_of(cols, j, c)]
                if mask_padding and (at[0] >= rows.length or at[1] >= cols.length):
                    cells.append(None)
                else:
                    cells.append(tuple((t - axis.shift) // axis.window for t, axis in zip(at, (rows, cols))))
            expected = torch.tensor([[a == b for b in cells] for a in cells])
            assert torch.equal(allowed, expected)
    assert (seen == 1).all()


@given(axes(), axes(), st.booleans())
def test_masks_are_those_of_the_shifted_grid(rows, cols, mask_padding):
    check_masks(rows, cols, mask_padding)


def check_attention(h, w, window, pretrained, shifted, mask_padding, kind, batch, scale):
    attn = randomize(WindowAttention(4, num_heads=2, window_size=window, pretrained_window=pretrained,
                                     position_bias=kind, mask_padding=mask_padding).double())
    with torch.no_grad():
        attn.logit_scale.fill_(scale)
    x = torch.randn(batch, h, w, 4, dtype=torch.float64, requires_grad=True)
    ours = attn(x, shifted=shifted)
    state = attn.state_dict(keep_vars=True)
    theirs = reference.attention(state, '', x, 2, window, pretrained, shifted, kind, mask_padding)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    probe = torch.randn(ours.shape, dtype=ours.dtype)
    inputs = [x, *attn.parameters()]
    for a, b in zip(*(torch.autograd.grad((out * probe).sum(), inputs, allow_unused=True) for out in (ours, theirs))):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


ATTENTION = (LENGTHS, LENGTHS, st.tuples(WINDOWS, WINDOWS), st.tuples(WINDOWS, WINDOWS), st.booleans(), st.booleans(),
             st.sampled_from(['log_cpb', 'linear_cpb', 'parameterized']), st.integers(1, 2),
             st.sampled_from([-1., 2.3, 9.]))


@given(*ATTENTION)
def test_attention_equals_the_reference(h, w, window, pretrained, shifted, mask_padding, kind, batch, scale):
    check_attention(h, w, window, pretrained, shifted, mask_padding, kind, batch, scale)


def check_locality(h, w, window, shifted):
    """By autograd: a token depends on the tokens of its cell, on all of them, and on no other."""
    attn = randomize(WindowAttention(4, num_heads=1, window_size=window, pretrained_window=window).double())
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
    table = cpb(small, pretrained)
    torch.testing.assert_close(crop_table(cpb(large, pretrained), small), table, rtol=0, atol=1e-12)
    pairs = bias_from_table(cpb(large, pretrained), large).view(2, *large, *large)
    pairs = pairs[:, :small[0], :small[1], :small[0], :small[1]].flatten(3).flatten(1, 2)
    torch.testing.assert_close(pairs, bias_from_table(table, small), rtol=0, atol=1e-12)


@given(LENGTHS, LENGTHS, WINDOWS, st.booleans(), st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
       st.booleans())
def test_finite_in_each_dtype_at_the_clamp(h, w, window, shifted, dtype, masked):
    """Rows of zeros, padding, logits that span 200: outputs and gradients stay finite."""
    qkv = torch.randn(1, h, w, 3 * 8).to(dtype)
    qkv[0, 0, 0] = 0  # a token whose query, key and value are zero
    qkv.requires_grad_()
    axes = [AxisWindows.fit(n, window, window // 2 if shifted else 0) for n in (h, w)]
    size = tuple(axis.window for axis in axes)
    table = torch.full((2, 2 * size[0] - 1, 2 * size[1] - 1), 16.).requires_grad_()
    scale = torch.tensor([50., 4.6]).view(2, 1, 1).requires_grad_()
    out = reference_attention(qkv, table, scale, window=size, shift=tuple(axis.shift for axis in axes),
                              padding=None if masked else torch.zeros(24, dtype=dtype), dropout=0.)
    assert out.dtype == dtype and out.isfinite().all()
    out.float().square().sum().backward()
    assert all(t.grad.isfinite().all() for t in (qkv, table, scale))


@pytest.mark.slow
@pytest.mark.parametrize('check, space', [
    (check_round_trip, (axes(), axes(), st.integers(1, 3), st.none())),
    (check_masks, (axes(), axes(), st.booleans())),
    (check_attention, ATTENTION),
    (check_locality, (LENGTHS, LENGTHS, st.tuples(WINDOWS, WINDOWS), st.booleans())),
])
def test_many_more(check, space):
    given(*space)(thorough(check))()
