"""Problems of window attention, how each backend answers them, and how near it must come to the slow reference."""
from functools import lru_cache

import pytest
import torch

import reference
from mmswinv2.core.attention import BACKENDS, Problem, window_attention
from mmswinv2.core.grid import Axis

# largest relative error (norm) of an output or a gradient against the slow reference in float64, of inputs in that
# dtype; in 16 bit: of one rounding of the result
TOLERANCES = {
    'eager': {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 2**-9, torch.float16: 2**-12},
    'cells': {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 2**-9, torch.float16: 2**-12},
    # at scales up to 10: unit vectors, biases and gradients of logits have 11 bits, a result in bfloat16 has 8
    'torch': {torch.bfloat16: 2**-7, torch.float16: 2**-8},
    # 16 bit: probabilities and their gradients are rounded before they are multiplied
    'triton': {torch.float32: 3e-6, torch.bfloat16: 1.6e-2, torch.float16: 2e-3},
}
SIZES = [
    ((8, 8), (4, 4)),     # whole windows
    ((11, 9), (4, 4)),    # ragged on both axes
    ((5, 13), (7, 6)),    # one window along H; a remainder of one token along W
    ((13, 16), (12, 5)),  # a window that is not square
    ((6, 5), (8, 8)),     # one window
    ((13, 7), (6, 3)),    # padding wider than window less shift
    ((17,), (5,)),        # one axis
    ((4, 7, 6), (2, 3, 4)),  # three axes, ragged
    ((3, 5, 8), (1, 4, 4)),  # windows of one token along an axis
    ((2, 5, 4), (8, 3, 3)),  # one window along time
    ((1, 1), (4, 4)),     # one token
    ((1, 9), (4, 4)),     # one token along H
]
def problem(lengths, window, *, shifted=True, batch=2, num_heads=3, dim=4, dtype=torch.float64, padding=False, seed=0,
            scales=(1., 6., 2., -1.)):
    """Inputs of ``window_attention``: tensors that want a gradient, and windows fitted to the map."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    grid = [Axis.fit(n, size, shifted=shifted) for n, size in zip(lengths, window)]
    tensors = dict(qkv=draw(batch, *lengths, 3 * num_heads * dim),
                   table=draw(num_heads, *(2 * axis.window - 1 for axis in grid)),
                   logit_scale=torch.tensor(scales[:num_heads], dtype=dtype).view(-1, 1, 1).requires_grad_())
    if padding:
        tensors['padding'] = draw(3 * num_heads * dim)
    return tensors, dict(window=tuple(axis.window for axis in grid), shift=tuple(axis.shift for axis in grid))


def asked(tensors, windows, *, device=None, **options):
    """A :func:`problem` as backends are given it, on another device if one is named."""
    grid = tuple(map(Axis, tensors['qkv'].shape[1:-1], windows['window'], windows['shift']))
    return Problem(*(tensors[name].to(device) for name in ('qkv', 'table', 'logit_scale')), grid, **options)


def operator_args(tensors, windows, *rest):
    """The arguments of the operator: those of a :func:`problem` without dropout, with ``rest``."""
    return *(t.detach() for t in tensors.values()), None, *map(list, windows.values()), 0., 2**20, *rest


ON_CPU = tuple(name for name in BACKENDS if BACKENDS[name].refuses(asked(*problem((2,), (2,)))) is None)
FAST = tuple(name for name in ON_CPU if name != 'eager')


def answers(function, tensors, dtype=None, **options):
    """Output and the gradient of each tensor, by name; what is differentiated along is rounded to ``dtype``."""
    out = function(**tensors, **options)
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    probe = probe.to(dtype or out.dtype).to(out)
    grads = torch.autograd.grad(out, list(tensors.values()), probe, allow_unused=True)
    return dict(out=out, **{name: torch.zeros_like(t) if g is None else g
                            for (name, t), g in zip(tensors.items(), grads)})


def by_reference(tensors, options):
    """The answers of the slow reference, in float64."""
    exact = {name: t.detach().double().requires_grad_() for name, t in tensors.items()}
    return answers(reference.window_attention, exact, tensors['qkv'].dtype, **options)


@lru_cache(maxsize=None)
def solved(lengths, window, **options):
    """A :func:`problem` and the answers of the slow reference, once for all tests that share it."""
    tensors, windows = problem(lengths, window, **options)
    return tensors, windows, by_reference(tensors, windows)


def by_backend(backend, tensors, options, **more):
    """The answers of a backend; skips the test where it says that it does not take the problem, with its reason."""
    reason = BACKENDS[backend].refuses(asked(tensors, options))
    if reason is not None:
        pytest.skip(f'{backend}: {reason}')
    return answers(window_attention, tensors, **options, backend=backend, **more)


def errors(ours, exact):
    """Relative error of each answer, in norm; absolute where the exact one is zero."""
    return {name: ((ours[name].double() - right).norm() / right.norm().clamp_min(1e-3)).item()
            for name, right in exact.items()}


def check(ours, exact, tolerance):
    """Compares answers."""
    found = errors(ours, exact)
    assert max(found.values()) <= tolerance, (found, tolerance)
