"""Windows of an axis and of a map: kinds, masks, partition and its inverse."""
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmswinv2.core.windows import AxisWindows, window_kinds, window_partition, window_reverse

pytestmark = pytest.mark.core


@st.composite
def axes(draw, longest=40):
    window = draw(st.integers(2, 12))
    return AxisWindows.fit(draw(st.integers(1, longest)), window, draw(st.integers(0, window - 1)))


def token_at(axis, position):
    """Index on the padded axis of what the roll brings to a position."""
    return (position + axis.shift) % axis.padded


@given(axes(), st.booleans())
def test_kinds_cover_each_window_once_in_at_most_three_groups(axis, mask_padding):
    kinds = axis.kinds(mask_padding)
    windows = [i for where, _ in kinds for i in range(where.start, where.stop)]
    assert windows == list(range(axis.count))
    assert len(kinds) <= 3


@given(axes())
def test_regions_follow_from_what_the_roll_does(axis):
    for where, regions in axis.kinds(mask_padding=True):
        for i in range(where.start, where.stop):
            tokens = [token_at(axis, i * axis.window + p) for p in range(axis.window)]
            for m, a in zip(tokens, regions):
                for n, b in zip(tokens, regions):
                    # together: both padding, or both of the map and no further apart than the window is long
                    both_pad = m >= axis.length and n >= axis.length
                    both_map = m < axis.length and n < axis.length and abs(m - n) < axis.window and (
                        (m - axis.shift) // axis.window == (n - axis.shift) // axis.window)
                    assert (a == b) == (both_pad or both_map)


@given(axes(20), axes(20), st.booleans())
def test_partition_and_reverse_are_inverse(rows, cols, give_value):
    x = torch.arange(1., 1 + 2 * rows.length * cols.length * 3).view(2, rows.length, cols.length, 3)
    value = torch.tensor([-1., -2., -3.]) if give_value else None
    windows = window_partition(x, rows, cols, value=value)
    assert windows.shape == (2, rows.count, cols.count, rows.window * cols.window, 3)
    assert torch.equal(window_reverse(windows, rows, cols), x)
    padding = windows.eq(0).all(-1) if value is None else windows.eq(value).all(-1)
    assert padding.sum() == 2 * (rows.padded * cols.padded - rows.length * cols.length)


@given(axes(), axes(), st.booleans())
def test_kinds_of_a_map_hold_each_window_once(rows, cols, mask_padding):
    seen = torch.zeros(rows.count, cols.count)
    kinds = window_kinds(rows, cols, mask_padding=mask_padding)
    for kind in kinds:
        seen[kind.rows, kind.cols] += 1
    assert torch.equal(seen, torch.ones_like(seen))
    assert len(kinds) <= 9


@given(axes(), axes())
def test_without_padding_four_kinds_one_of_them_without_a_mask(rows, cols):
    if rows.padded == rows.length and cols.padded == cols.length:
        kinds = window_kinds(rows, cols)
        assert len(kinds) <= 4
        assert sum(k.regions is None for k in kinds) <= 1


def test_the_mask_of_a_1536_px_map_is_four_kinds():
    axis = AxisWindows.fit(384, 32, 16)
    kinds = window_kinds(axis, axis)
    assert [(k.rows, k.cols, k.regions is None) for k in kinds] == [
        (slice(0, 11), slice(0, 11), True), (slice(0, 11), slice(11, 12), False),
        (slice(11, 12), slice(0, 11), False), (slice(11, 12), slice(11, 12), False)]


@pytest.mark.parametrize('length, expected', [(5, (5, 0, 1)), (8, (8, 0, 1)), (9, (8, 4, 2)), (16, (8, 4, 2))])
def test_a_map_no_larger_than_the_window_is_one_unshifted_window(length, expected):
    axis = AxisWindows.fit(length, 8, 4)
    assert (axis.window, axis.shift, axis.count) == expected
