"""The oracle itself, on one, two and three axes: against torch's attention under a mask, and against itself."""
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import reference

pytestmark = pytest.mark.core

AXES = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2)), min_size=1, max_size=3)


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def problem(axes, num_heads=2, dim=3):
    """A map with axes (length, window, shift), and the arguments of the oracle."""
    lengths, window, _ = zip(*axes)
    shift = [moved % size for _, size, moved in axes]
    return (draw(2, *lengths, 3 * num_heads * dim), draw(num_heads, *(2 * size - 1 for size in window)),
            torch.tensor([1., 9.], dtype=torch.float64).view(2, 1, 1)), dict(window=window, shift=shift)


@given(AXES, st.booleans())
def test_equals_torchs_attention_under_a_mask(axes, padded):
    """Over the whole map, with the bias of each pair and minus infinity between tokens of different cells."""
    (qkv, table, scale), options = problem(axes)
    padding = draw(18) if padded else None
    found = reference.window_attention(qkv, table, scale, **options, padding=padding)
    lengths, window, shift = zip(*[(n, w, s % w) for n, w, s in axes])
    extents = [-(-n // w) * w if padded else n for n, w in zip(lengths, window)]
    tokens = list(itertools.product(*map(range, extents)))
    real = torch.tensor([all(p < n for p, n in zip(token, lengths)) for token in tokens])
    rows = torch.zeros(2, len(tokens), 18, dtype=torch.float64)
    rows[:, real] = qkv.flatten(1, -2)
    if padded:
        rows[:, ~real] = padding
    mask = torch.full((2, len(tokens), len(tokens)), -math.inf, dtype=torch.float64)
    for (i, a), (j, b) in itertools.product(enumerate(tokens), repeat=2):
        if all((p - s) // w == (q - s) // w for p, q, w, s in zip(a, b, window, shift)):
            mask[:, i, j] = table[(slice(None), *(p - q + w - 1 for p, q, w in zip(a, b, window)))]
    q, k, v = rows.view(2, -1, 3, 2, 3).permute(2, 0, 3, 1, 4)
    q = F.normalize(q, dim=-1) * scale.clamp(max=math.log(100)).exp()
    wanted = F.scaled_dot_product_attention(q, F.normalize(k, dim=-1), v, mask, scale=1.)
    wanted = wanted.transpose(1, 2).flatten(2)[:, real].view(2, *lengths, 6)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@given(AXES)
def test_no_axis_is_special(axes):
    """Axes in the opposite order give the result in the opposite order."""
    (qkv, table, scale), options = problem(axes)
    last = len(axes) + 1
    opposite = [0, *range(last - 1, 0, -1)]
    turned = reference.window_attention(qkv.permute(*opposite, last), table.permute(*opposite), scale,
                                        **{name: sizes[::-1] for name, sizes in options.items()})
    wanted = reference.window_attention(qkv, table, scale, **options)
    torch.testing.assert_close(turned.permute(*opposite, last), wanted, rtol=1e-12, atol=1e-12)


def weights(axes):
    """Of a module with 2 heads of 2 channels whose bias has so many coordinates."""
    shapes = {'qkv.weight': (12, 4), 'q_bias': (4,), 'v_bias': (4,), 'proj.weight': (4, 4), 'proj.bias': (4,),
              'cpb_mlp.0.weight': (5, axes), 'cpb_mlp.0.bias': (5,), 'cpb_mlp.2.weight': (2, 5),
              'logit_scale': (2, 1, 1)}
    return {name: draw(*shape) for name, shape in shapes.items()}


@pytest.mark.parametrize('mask_padding', [True, False])
@pytest.mark.parametrize('pretrained', [1, 4])
def test_frames_with_a_window_of_one_are_images(pretrained, mask_padding):
    """Along an axis whose window is 1 only the offset 0 occurs: whatever was pre-trained there, frames are apart."""
    state, x = weights(3), draw(2, 3, 7, 5, 4)
    found = reference.attention(state, '', x, 2, (1, 4, 3), (pretrained, 6, 5), True, mask_padding=mask_padding)
    state['cpb_mlp.0.weight'] = state['cpb_mlp.0.weight'][:, 1:]
    for i in range(3):
        wanted = reference.attention(state, '', x[:, i], 2, (4, 3), (6, 5), True, mask_padding=mask_padding)
        torch.testing.assert_close(found[:, i], wanted, rtol=1e-12, atol=1e-12)


def test_a_learnt_table_has_any_number_of_axes():
    """On a map smaller than the window along the second axis its middle is read, in row-major order."""
    table = draw(2, 3, 7, 5)  # windows of 2, 4 and 3
    state = dict(weights(3), relative_position_bias_table=table.flatten(1).T)
    found = reference.bias_table(state, '', None, 'parameterized', (2, 4, 3), (2, 2, 3))
    assert torch.equal(found, table[:, :, 2:5])


def test_coordinates_are_divided_by_the_largest_offset_of_pre_training():
    assert reference.relative_coordinate(6, 4, 'linear_cpb') == 2
    # with a window of 1 there was the offset 0 alone
    assert reference.relative_coordinate(0, 1, 'log_cpb') == reference.relative_coordinate(0, 1, 'linear_cpb') == 0
    assert reference.relative_coordinate(-3, 1, 'linear_cpb') == -3
    assert reference.relative_coordinate(-1, 1, 'log_cpb') == pytest.approx(-math.log2(9) / 3)
