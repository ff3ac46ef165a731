"""Each attention backend against ``reference``: output, every gradient, dtypes, dropout, memory, torch's machinery."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmswinv2.core.windows import AxisWindows
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.backbones import SMALL, randomize
from mmswinv2.core import SwinTransformerV2
from mmswinv2.core import cell_attention as cells
from mmswinv2.core.attention import BACKENDS, WindowAttention

pytestmark = pytest.mark.core

FAST = sorted(set(BACKENDS) - {'reference'})
NO_SEED = torch.empty(0, dtype=torch.int64)


def problem(h, w, window, shifted, *, batch=2, num_heads=3, dim=4, dtype=torch.float64, padding=False, seed=0):
    """Inputs of a backend, as tensors that want a gradient and keyword arguments."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    axes = [AxisWindows.fit(n, size, size // 2 if shifted else 0) for n, size in zip((h, w), window)]
    fitted = tuple(axis.window for axis in axes)
    tensors = dict(qkv=draw(batch, h, w, 3 * num_heads * dim),
                   table=draw(num_heads, 2 * fitted[0] - 1, 2 * fitted[1] - 1),
                   logit_scale=torch.tensor([1., 6., 2., -1.][:num_heads], dtype=dtype).view(-1, 1, 1).requires_grad_())
    if padding:
        tensors['padding'] = draw(3 * num_heads * dim)
    return tensors, dict(window=fitted, shift=tuple(axis.shift for axis in axes), dropout=0.)


def run(backend, tensors, options, budget):
    """Output and the gradient of each tensor."""
    tensors = dict(dict(padding=None), **tensors)
    wanted = [t for t in tensors.values() if t is not None]
    out = BACKENDS[backend](**tensors, **options, budget=budget)
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(out.dtype)
    return [out, *torch.autograd.grad(out, wanted, probe, allow_unused=True)]


SIZES = [
    ((8, 8), (4, 4)),     # whole windows
    ((11, 9), (4, 4)),    # ragged on both axes
    ((5, 13), (7, 6)),    # one window along H; a remainder of one token along W
    ((13, 16), (12, 5)),  # a window that is not square
    ((6, 5), (8, 8)),     # one window
    ((13, 7), (6, 3)),    # padding wider than window less shift
]


@pytest.mark.parametrize('budget', [None, 400, 20000])  # bytes; None: 64 MiB
@pytest.mark.parametrize('padding', [False, True])
@pytest.mark.parametrize('shifted', [False, True])
@pytest.mark.parametrize('size, window', SIZES)
@pytest.mark.parametrize('backend', FAST)
def test_equals_reference(backend, size, window, shifted, padding, budget, monkeypatch):
    if budget is not None:
        monkeypatch.setattr('mmswinv2.core.attention.MIB', budget)
    tensors, options = problem(*size, window, shifted, padding=padding)
    ours = run(backend, tensors, options, 64 if budget is None else 1)
    theirs = run('reference', tensors, options, 64)
    for name, a, b in zip(['out', *tensors], ours, theirs):
        b = torch.zeros_like(tensors[name]) if b is None else b  # of padding where there is none
        a = torch.zeros_like(b) if a is None else a
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10, msg=lambda m, name=name: f'{name}: {m}')


@given(st.integers(1, 14), st.integers(1, 14), st.tuples(st.integers(2, 7), st.integers(2, 7)), st.booleans(),
       st.integers(1, 3), st.integers(1, 4), st.integers(50, 50000), st.sampled_from(FAST))
def test_equals_reference_everywhere(h, w, window, shifted, batch, num_heads, budget, backend):
    tensors, options = problem(h, w, window, shifted, batch=batch, num_heads=num_heads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmswinv2.core.attention.MIB', budget)
        ours = run(backend, tensors, options, 1)
    for a, b in zip(ours, run('reference', tensors, options, 1)):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


# half precision: both backends compute in float32 and round once; the gradient of q and k uses the rounded output
@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 2e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
@pytest.mark.parametrize('backend', FAST)
def test_equals_reference_in_each_dtype(backend, dtype, tolerance):
    tensors, options = problem(11, 9, (4, 4), True, dtype=dtype, dim=8)
    exact = run('reference', {k: v.detach().double().requires_grad_() for k, v in tensors.items()}, options, 64)
    ours, theirs = run(backend, tensors, options, 64), run('reference', tensors, options, 64)
    for name, a, b, c in zip(['out', *tensors], ours, theirs, exact):
        assert a.dtype == b.dtype == dtype
        error = (a.double() - c).norm() / c.norm()
        assert error <= max(tolerance, 2 * ((b.double() - c).norm() / c.norm()).item()), name


@pytest.mark.parametrize('backend', FAST)
def test_rows_of_zeros_and_of_any_length(backend):
    tensors, options = problem(8, 8, (4, 4), True, dtype=torch.float32)
    with torch.no_grad():
        tensors['qkv'][0, 0, 0] = 0
        tensors['qkv'][0, 1, :, :24] *= 1e-30  # queries and keys
        tensors['qkv'][0, 2, :, :24] *= 1e30
    ours, theirs = run(backend, tensors, options, 64), run('reference', tensors, options, 64)
    assert all(t.isfinite().all() for t in ours)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-4, atol=1e-5)
    assert not ours[1][0, 0, 0, :24].any()  # a query and a key of zeros have a zero gradient
    torch.testing.assert_close(ours[1][0, 3:], theirs[1][0, 3:], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('backend', FAST)
def test_gradient_with_dropout(backend):
    """The backward pass drops what the forward pass dropped."""
    tensors, options = problem(5, 7, (4, 3), True, batch=1, num_heads=2, dim=2)
    options['dropout'] = .4

    def f(qkv, table, logit_scale):
        torch.manual_seed(5)
        return BACKENDS[backend](qkv, table, logit_scale, padding=None, **options, budget=1)
    with torch.no_grad():
        tensors['logit_scale'].clamp_(max=2.)
    assert torch.autograd.gradcheck(f, tuple(tensors.values()), fast_mode=True)


@pytest.mark.parametrize('backend', sorted(BACKENDS))
def test_dropout_is_unbiased_and_drawn_anew(backend):
    tensors, options = problem(4, 4, (4, 4), False, batch=1, dtype=torch.float32)
    plain = BACKENDS[backend](**tensors, padding=None, **options, budget=1)
    options['dropout'] = .25
    draws = torch.stack([BACKENDS[backend](**tensors, padding=None, **options, budget=1) for _ in range(300)])
    assert not torch.equal(draws[0], draws[1])
    torch.testing.assert_close(draws.mean(0), plain, rtol=0, atol=.25)
    spread = draws.std(0).mean().item()
    reference = torch.stack([BACKENDS['reference'](**tensors, padding=None, **options, budget=1) for _ in range(300)])
    assert spread == pytest.approx(reference.std(0).mean().item(), rel=.15)


@pytest.mark.parametrize('backend', FAST)
def test_double_backward_is_refused(backend):
    tensors, options = problem(4, 4, (4, 4), False)
    out = BACKENDS[backend](**tensors, padding=None, **options, budget=1)
    grad, = torch.autograd.grad(out.sum(), tensors['qkv'], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once only, .*attn_backend='reference'"):
        grad.sum().backward()


def test_operators_pass_torchs_own_checks():
    tensors, options = problem(5, 7, (4, 3), True, batch=1)
    args = (*tensors.values(), NO_SEED, list(options['window']), list(options['shift']), 0., 2**20, False)
    torch.library.opcheck(cells.cell_attention, args)


class Largest(TorchDispatchMode):
    """The most bytes of any tensor that an operator returns."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(t, torch.Tensor) and t.untyped_storage().nbytes() == t.nbytes:  # no view
                self.bytes = max(self.bytes, t.nbytes)
        return out


@pytest.mark.parametrize('budget_mib', [1, 4])
@pytest.mark.parametrize('fused', [False, True])
def test_nothing_is_larger_than_the_budget_or_the_map(fused, budget_mib):
    """Of 64 windows with 256 tokens: all attention maps are 48 MiB, one is 256 KiB a head."""
    tensors, options = problem(128, 128, (16, 16), True, batch=1, num_heads=3, dim=8, dtype=torch.float32)
    args = [t.detach() for t in tensors.values()]
    rest = NO_SEED, list(options['window']), list(options['shift']), 0., budget_mib * 2**20, fused
    limit = max(budget_mib * 2**20 // 4, args[0].nbytes)
    with Largest() as forward:
        out = cells.attend(*args, *rest)
    assert forward.bytes <= limit
    with Largest() as backward:
        cells.attend_backward(out, out, *args, *rest)
    assert backward.bytes <= limit


@pytest.mark.parametrize('length, window, shift', [(12, 4, 0), (12, 4, 2), (13, 4, 2), (9, 4, 2), (5, 4, 2), (4, 4, 0),
                                                   (35, 32, 16), (1, 1, 0)])
def test_cells_hold_each_token_once(length, window, shift):
    groups = cells.axis_cells(length, window, shift)
    tokens = [(c.start + i * c.size + j) for c in groups for i in range(c.count) for j in range(c.size)]
    assert tokens == list(range(length)) and len(groups) <= 3
    for c in groups:
        for i in range(c.count):
            at = range(c.start + i * c.size, c.start + (i + 1) * c.size)
            assert len({(t - shift) // window for t in at}) == 1


def net(backend, **options):
    options = dict(dict(window_size=4, out_indices=(0, 1), drop_path_rate=0., attn_backend=backend), **options)
    return randomize(SwinTransformerV2(SMALL, **options))


@pytest.mark.parametrize('options', [{}, dict(with_cp=True), dict(with_cp=True, attn_drop_rate=.3),
                                     dict(mask_padding=False), dict(attn_budget_mib=1)])
@pytest.mark.parametrize('backend', FAST)
def test_a_backbone_equals_that_of_the_reference(backend, options, rng):
    x = torch.randn(2, 3, 44, 52, generator=rng, dtype=torch.float64)
    results = []
    # with dropout, the same backend without checkpointing: it must draw the same
    other = (backend, dict(options, with_cp=False)) if 'attn_drop_rate' in options else ('reference', options)
    for kind, extra in ((backend, options), other):
        model = net(kind, **extra).double()
        torch.manual_seed(4)
        outs = model(x)
        sum(o.square().sum() for o in outs).backward()
        results.append([*outs, *(p.grad for p in model.parameters())])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize('options', [{}, dict(mask_padding=False), dict(with_cp=True, attn_drop_rate=.3)])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('backend', sorted(BACKENDS))
def test_no_images(backend, training, options):
    """A batch of 0 gives maps of 0 images, and gradients of zeros."""
    model = net(backend, **options).train(training)
    x = torch.zeros(0, 3, 44, 52, requires_grad=True)
    with torch.no_grad():
        assert [o.shape for o in model(x)] == [(0, 8, 11, 13), (0, 16, 6, 7)]
    sum(o.sum() for o in model(x)).backward()
    assert x.grad.shape == x.shape
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('backend', FAST)
def test_autocast(backend, dtype, rng):
    x = torch.randn(1, 3, 44, 36, generator=rng)
    results = []
    for kind in (backend, 'reference'):
        model = net(kind)
        with torch.autocast('cpu', dtype=dtype):
            outs = model(x)
        sum(o.square().mean() for o in outs).backward()
        results.append([*outs, *(p.grad for p in model.parameters())])
    for a, b in zip(*results):
        assert a.isfinite().all() and (a - b).norm() <= .05 * b.norm() + 1e-5


@pytest.mark.parametrize('training', [True, False])
def test_torch_compile_without_graph_breaks(training, rng):
    model = net('auto').train(training)
    x = torch.randn(1, 3, 40, 36, generator=rng)
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    with torch.set_grad_enabled(training):
        for a, b in zip(compiled(x), model(x)):
            torch.testing.assert_close(a, b)
        if training:
            sum(o.sum() for o in compiled(x)).backward()
            assert all(p.grad.isfinite().all() for p in model.parameters())


def test_balanced_windows(rng):
    """35 tokens at window 32 are two windows of 18, and the result is that of a model with windows of 18."""
    options = dict(window_size=[(32, 8), (32, 8)], pretrained_window_sizes=8)
    balanced = net('auto', **options, window_fit='balanced').double().eval()
    other = net('auto', window_size=[(18, 7), (18, 7)], pretrained_window_sizes=8).double().eval()
    exact = net('auto', **options).double().eval()
    x = torch.randn(1, 3, 140, 28 * 4, generator=rng, dtype=torch.float64)  # 35 x 28 tokens, then 18 x 14
    for a, b, c in zip(balanced(x), other(x), exact(x)):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        assert (a - c).abs().max() > 1e-3
    assert WindowAttention(8, num_heads=2, window_size=(4, 4), pretrained_window=(4, 4)).window_fit == 'exact'


@pytest.mark.parametrize('write', ['fused', 'data', 'in place', 'functional_call'])
def test_outputs_follow_the_weights_however_they_are_written(write, rng):
    """In evaluation, with and without the mode being set again: nothing that was computed before is kept."""
    model = net('auto').eval()
    x = torch.randn(1, 3, 48, 48, generator=rng)
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    with torch.no_grad():
        before = model(x)[0]
    if write == 'fused':
        optimizer = torch.optim.SGD(model.parameters(), lr=1., fused=True)
        sum(o.square().sum() for o in model(x)).backward()
        optimizer.step()
    else:
        for n, p in model.named_parameters():
            weights[n] = p.detach() * 1.5
            if write == 'data':
                p.data.copy_(weights[n])
            elif write == 'in place':
                with torch.no_grad():
                    p.copy_(weights[n])
    with torch.no_grad():
        found = torch.func.functional_call(model, weights, x) if write == 'functional_call' else model(x)
        fresh = net('auto').eval()
        fresh.load_state_dict({**model.state_dict(), **(weights if write == 'functional_call' else {})})
        for a, b in zip(found, fresh(x)):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.allclose(found[0], before)
