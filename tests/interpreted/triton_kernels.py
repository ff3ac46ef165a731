"""Triton's kernels in its interpreter, on CPU tensors: ``test_triton.py`` runs this file with TRITON_INTERPRET=1.

The interpreter runs programs one after another, so it sees no races; it multiplies bfloat16 wrongly (triton#11584).
"""
import math

import pytest
import torch
from triton.runtime import interpreter

from helpers.attention import TOLERANCES, by_backend, by_reference, check, problem
from mmswinv2.core.attention import operator, window_attention
from mmswinv2.core.attention.triton import launch

pytestmark = pytest.mark.core

GUARD = 64  # elements
SENTINEL = 7.
# seeds: those with which the gradient of the scale is no small difference of large terms, which no kernel has exactly
HEADS = dict(num_heads=1, dim=16, batch=1, scales=(3., 6.), seed=2)
CASES = [
    ((7, 9), (4, 4), True, torch.float32, dict(num_heads=2)),  # ragged on both axes; a head at the clamp of the scale
    ((7, 9), (4, 4), True, torch.float16, {}),
    ((8, 8), (4, 4), False, torch.float32, dict(batch=2, seed=3)),  # whole windows only, images
    ((9, 14), (9, 14), False, torch.float16, {}),  # cut to the map: several tiles, which do not divide it
    ((5, 11), (8, 4), True, torch.float16, dict(batch=2)),  # cut along one axis, several windows along the other
    ((12, 10), (9, 6), True, torch.float32, dict(dim=32, seed=3)),  # no squares; cells of several tiles
    ((17,), (5,), True, torch.float32, dict(num_heads=2, seed=3)),  # one axis
    ((3, 5, 4), (2, 3, 4), True, torch.float32, dict(num_heads=2, seed=4)),  # three axes
    ((2, 5, 4), (8, 3, 3), True, torch.float16, {}),  # one window along time
    ((2, 4, 6), (1, 4, 4), True, torch.float32, {}),  # windows of one token along time
    ((1, 1), (4, 4), True, torch.float32, {}),  # one token
    ((1, 9), (4, 4), True, torch.float16, {}),  # one token along H
]


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    """What is allocated by ``torch.empty`` is NaN, in the middle of a buffer whose ends must not change."""
    empty, buffers = torch.empty, []

    def guarded(*shape, dtype=torch.float32, device=None):
        shape = torch.Size(shape[0] if not isinstance(shape[0], int) else shape)
        buffer = empty(shape.numel() + 2 * GUARD, dtype=dtype).fill_(SENTINEL)
        buffers.append(buffer)
        return buffer[GUARD:-GUARD].fill_(math.nan).view(shape)
    monkeypatch.setattr(torch, 'empty', guarded)
    monkeypatch.setattr(torch, 'empty_like', lambda x: guarded(x.shape, dtype=x.dtype))
    yield
    monkeypatch.undo()
    for buffer in buffers:
        assert buffer[:GUARD].eq(SENTINEL).all() and buffer[-GUARD:].eq(SENTINEL).all()


def among_nan(x):
    """The same tensor in a larger buffer of NaN."""
    buffer = x.new_full((x.numel() + 2 * GUARD,), math.nan)
    buffer[GUARD:-GUARD] = x.detach().flatten()
    return buffer[GUARD:-GUARD].view(x.shape).requires_grad_()


def among_nan_problem(*args, **options):
    tensors, fitted = problem(*args, **{**HEADS, **options})
    return {name: among_nan(x) for name, x in tensors.items()}, fitted


@pytest.mark.parametrize('lengths, window, shifted, dtype, options', CASES)
def test_equals_the_slow_reference(lengths, window, shifted, dtype, options):
    """In outputs and gradients. Nothing beside inputs is read."""
    tensors, fitted = among_nan_problem(lengths, window, shifted=shifted, dtype=dtype, **options)
    check(by_backend('triton', tensors, fitted), by_reference(tensors, fitted), TOLERANCES['triton'][dtype])


def test_half_precision_with_a_float32_table():
    """As under autocast, at the clamp: gradients of table and scale are not those of a rounded result."""
    tensors, options = among_nan_problem((16, 8), (8, 8), shifted=False, dtype=torch.float16, dim=32, num_heads=2)
    tensors |= {name: tensors[name].detach().float().requires_grad_() for name in ('table', 'logit_scale')}
    tensors['logit_scale'].data.fill_(4.6)
    ours, exact = by_backend('triton', tensors, options), by_reference(tensors, options)
    check(ours, exact, 2e-3)
    for name in ('table', 'logit_scale'):
        assert (ours[name].double() - exact[name]).norm() <= 1e-4 * exact[name].norm()


def test_rows_of_zeros_and_of_any_length():
    tensors, options = among_nan_problem((8, 8), (4, 4), dtype=torch.float32)
    with torch.no_grad():
        tensors['qkv'][0, 0, 0] = 0
        tensors['qkv'][0, 1, :, :32] *= 1e-30  # queries and keys
        tensors['qkv'][0, 2, :, :32] *= 1e30
    ours, exact = by_backend('triton', tensors, options), by_reference(tensors, options)
    assert all(t.isfinite().all() for t in ours.values())
    torch.testing.assert_close(ours['out'].double(), exact['out'], rtol=1e-4, atol=1e-5)
    assert not ours['qkv'][0, 0, 0, :32].any()  # a query and a key of zeros have a zero gradient
    torch.testing.assert_close(ours['qkv'][0, 3:].double(), exact['qkv'][0, 3:], rtol=1e-3, atol=1e-4)
    for name in ('table', 'logit_scale'):
        torch.testing.assert_close(ours[name].double(), exact[name], rtol=1e-4, atol=1e-4)


def test_finite_at_the_clamp_in_half_precision():
    tensors, options = among_nan_problem((5, 6), (4, 4), dtype=torch.float16, num_heads=2, scales=(50., 4.6))
    with torch.no_grad():
        tensors['qkv'][0, 0, 0] = 0
        tensors['qkv'][0, 1, :, :64] *= 2000  # lengths of 8000
        tensors['qkv'][0, 2, :, :64] *= .1
        tensors['table'].fill_(16)
    ours = by_backend('triton', tensors, options)
    assert all(t.isfinite().all() for t in ours.values()) and ours['logit_scale'][0] == 0


def results(tensors, options, **more):
    return list(by_backend('triton', tensors, options, **more).values())


def test_the_order_of_programs_changes_no_bit(monkeypatch):
    tensors, options = among_nan_problem((5, 6), (4, 4), dtype=torch.float32)
    forward = results(tensors, options)
    seen, set_index = [], interpreter.interpreter_builder.set_grid_idx

    def run_last_first(x, y, z):
        last = interpreter.interpreter_builder.grid_dim[0] - 1
        seen.append((x, last))
        set_index(last - x, y, z)
    monkeypatch.setattr(interpreter.interpreter_builder, 'set_grid_idx', run_last_first)
    for a, b in zip(forward, results(tensors, options)):
        assert torch.equal(a, b)
    assert max(last for _, last in seen) >= 3


def test_parts_of_the_bias_and_groups_of_heads_change_roundings_only(monkeypatch):
    tensors, options = among_nan_problem((4, 6), (3, 4), num_heads=2, dtype=torch.float32)
    expected = by_backend('triton', tensors, options)
    for programs, budget in ((1, None), (2048, 1)):  # one part; one head at a time, whatever the bytes
        monkeypatch.setattr(launch, 'BIAS_PROGRAMS', programs)
        check(by_backend('triton', tensors, options, budget=budget), {k: v.double() for k, v in expected.items()}, 1e-6)


def test_no_images():
    tensors, options = problem((8, 8), (4, 4), **{**HEADS, 'batch': 0}, dtype=torch.float32)
    out = window_attention(**tensors, **options, backend='triton')
    grads = torch.autograd.grad(out.sum(), list(tensors.values()))
    assert out.shape == (0, 8, 8, 16) and not any(g.any() for g in grads)


def test_the_log_sum_exp_is_that_of_cells():
    tensors, options = among_nan_problem((7, 5), (4, 4), dtype=torch.float32)
    args = *(t.detach() for t in tensors.values()), None, list(options['window']), list(options['shift']), 0., 2**20
    for a, b in zip(operator.forward(*args, 'triton'), operator.forward(*args, 'cells')):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6)
