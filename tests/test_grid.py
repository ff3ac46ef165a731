"""One geometry: axes, their cells, groups of a map, and views of them."""
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmswinv2.core.grid import Axis, copy_cells, cut, divide, groups, paste, put_cells, take

pytestmark = pytest.mark.core


@st.composite
def axes(draw, longest=40):
    """Any axis: whatever its shift, not only half a window."""
    length = draw(st.integers(1, longest))
    window = draw(st.integers(1, min(12, length)))
    return Axis(length, window, draw(st.integers(0, window - 1)))


def grids(longest):
    return st.lists(axes(longest), min_size=1, max_size=3).map(tuple)


@pytest.mark.parametrize('length, shifted, expected', [
    (5, True, (5, 0)), (8, True, (8, 0)), (9, True, (8, 4)), (16, True, (8, 4)), (16, False, (8, 0))])
def test_an_axis_no_longer_than_the_window_is_one_unshifted_window(length, shifted, expected):
    axis = Axis.fit(length, 8, shifted=shifted)
    assert (axis.window, axis.shift) == expected


@given(st.integers(1, 60), st.integers(1, 20), st.booleans())
def test_balanced_windows_are_the_smallest_with_as_many(length, window, shifted):
    axis = Axis.fit(length, window, shifted=shifted, balanced=True)
    number = math.ceil(length / window)
    assert axis.window == min(w for w in range(1, length + 1) if math.ceil(length / w) <= number)
    assert axis.shift == (axis.window // 2 if shifted and number > 1 else 0)


@given(axes())
def test_cells_hold_each_token_once_with_those_of_its_window(axis):
    members = [range(run.start + i * run.step, run.start + i * run.step + run.size)
               for run in axis.runs for i in range(run.count)]
    assert sorted(token for cell in members for token in cell) == list(range(axis.length))
    assert len({run.size for run in axis.runs}) == len(axis.runs)
    assert len(axis.runs) <= 3
    windows = [{(token - axis.shift) // axis.window for token in cell} for cell in members]
    assert all(len(window) == 1 for window in windows) and len(windows) == len(set().union(*windows))
    assert axis.pairs == sum(len(cell)**2 for cell in members)
    assert axis.padded % axis.window == 0 and 0 <= axis.padded - axis.length < axis.window


def test_the_cells_of_a_1536_px_map_are_of_four_sizes():
    grid = (Axis.fit(384, 32, shifted=True),) * 2
    assert [(r.count, r.size) for r in grid[0].runs] == [(2, 16), (11, 32)]
    assert len(list(groups(grid))) == 4
    assert len(list(groups((Axis.fit(100, 32, shifted=True),) * 2))) == 9  # 16, 32 and 20 tokens


@given(grids(14))
def test_paste_undoes_cut_and_is_its_adjoint(grid):
    x = torch.randn(2, *(axis.length for axis in grid), 3, 4, dtype=torch.float64, requires_grad=True)
    rows = cut(x, grid)
    assert len(rows) == len(list(groups(grid))) and all(r.is_contiguous() for r in rows)
    assert torch.equal(paste(rows, 2, grid), x)
    out = torch.full_like(x, torch.nan)
    for cells, group in zip(rows, groups(grid)):
        assert torch.equal(cells, copy_cells(take(x, group)))
        put_cells(out, group, cells.detach())
    assert torch.equal(out, x)
    probes = [torch.randn_like(r) for r in rows]
    grad, = torch.autograd.grad(rows, x, probes)
    assert torch.equal(grad, paste(probes, 2, grid))
    out, pull_back = torch.func.vjp(lambda y: cut(y, grid), x.detach())
    assert all(map(torch.equal, out, rows)) and torch.equal(pull_back(probes)[0], grad)
    out, pull_back = torch.func.vjp(lambda *r: paste(r, 2, grid), *[r.detach() for r in rows])
    assert torch.equal(out, x) and all(map(torch.equal, pull_back(x.detach()), rows))


@given(grids(9))
def test_take_gives_the_tokens_of_each_cell(grid):
    lengths = [axis.length for axis in grid]
    positions = torch.stack(torch.meshgrid(*map(torch.arange, lengths), indexing='ij'), -1)[None, ..., None, :]
    for group in groups(grid):
        taken = take(positions, group)[0, 0]
        for cell in itertools.product(*(range(run.count) for run in group)):
            tokens = taken[cell].flatten(0, -2).tolist()
            spans = [range(run.start + i * run.step, run.start + i * run.step + run.size)
                     for run, i in zip(group, cell)]
            assert tokens == [list(token) for token in itertools.product(*spans)]


@given(grids(14), st.integers(1, 4), st.integers(1, 30))
def test_parts_of_a_group_hold_each_cell_once_and_no_more_than_the_limit(grid, batch, limit):
    ids = torch.arange(batch * math.prod(axis.length for axis in grid)).view(batch, *(a.length for a in grid), 1, 1)
    for group in groups(grid):
        seen = []
        for images, part in divide(batch, group, limit):
            assert (images.stop - images.start) * math.prod(run.count for run in part) <= limit
            seen.append(take(ids[images], part).flatten())
        assert torch.cat(seen).sort().values.tolist() == take(ids, group).flatten().sort().values.tolist()
