"""Problems of window attention, how each backend answers them, and how near it must come to the slow reference."""
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


def skip_if_refused(backend, tensors, options):
    """Skips a test where the backend says that it does not take the problem, with its reason."""
    grid = tuple(map(Axis, tensors['qkv'].shape[1:-1], options['window'], options['shift']))
    reason = BACKENDS[backend].refuses(Problem(tensors['qkv'], tensors['table'], tensors['logit_scale'], grid))
    if reason is not None:
        pytest.skip(f'{backend}: {reason}')


def takes_a_cpu(backend):
    """Whether a backend takes problems of a CPU."""
    qkv, table, scale = torch.zeros(1, 2, 24), torch.zeros(1, 3), torch.zeros(1)
    return BACKENDS[backend].refuses(Problem(qkv, table, scale, (Axis(2, 2),))) is None


ON_CPU = tuple(filter(takes_a_cpu, BACKENDS))


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


def by_backend(backend, tensors, options, **more):
    """The answers of a backend."""
    skip_if_refused(backend, tensors, options)
    return answers(window_attention, tensors, **options, backend=backend, **more)


def errors(ours, exact):
    """Relative error of each answer, in norm; absolute where the exact one is zero."""
    return {name: ((ours[name].double() - right).norm() / right.norm().clamp_min(1e-3)).item()
            for name, right in exact.items()}


def check(ours, exact, tolerance):
    """Compares answers."""
    found = errors(ours, exact)
    assert max(found.values()) <= tolerance, (found, tolerance)
