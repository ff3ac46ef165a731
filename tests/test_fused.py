"""The backend of torch's fused kernel, with a stand-in for that kernel on a CPU, against the slow reference."""
import inspect
import math
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

import emulated
import reference
from helpers.attention import SIZES, TOLERANCES, asked, by_backend, by_reference, operator_args, problem, solved
from helpers.backbones import SMALL
from helpers.versions import needs_torch_2_4
from mmswinv2.core import SwinTransformerV2
from mmswinv2.core.attention import row_order, torch_fused, window_attention
from mmswinv2.core.attention.triton import launch
from mmswinv2.core.grid import Axis
from mmswinv2.core.torch_compat import cached_per_device

pytestmark = [pytest.mark.core, pytest.mark.skipif(not torch_fused.HAS_OPERATORS, reason='torch has no such operators')]

DTYPES = [torch.float16, torch.bfloat16]
CLAMPED = 5  # times the tolerance at a scale of 100


@pytest.fixture(autouse=True)
def on_a_cpu():
    with emulated.on_a_cpu():
        yield


@pytest.fixture(params=[0, 256], ids=['by size', 'whole windows'])
def small(request, monkeypatch):
    """Tokens of the largest windows that are taken whole."""
    monkeypatch.setattr(row_order, 'SMALL', request.param)
    fresh = cached_per_device(inspect.unwrap(row_order.row_order))  # nothing kept from the other
    monkeypatch.setattr(torch_fused, 'row_order', fresh)


def check(ours, exact, tolerance, scale=1.):
    """Errors relative to the exact one; where that may cancel, to the gradient of queries, keys and values too."""
    beside = exact['qkv'].norm()
    floors = dict(table=beside, padding=beside, logit_scale=scale * beside)
    for name, right in exact.items():
        error = (ours[name].double() - right).norm() / (right.norm() + floors.get(name, 1e-3))
        assert error <= tolerance, SimpleNamespace(name=name, error=error.item(), tolerance=tolerance)


@pytest.mark.parametrize('shifted, padding', [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize('lengths, window', SIZES)
@pytest.mark.parametrize('dtype, budget', [(torch.bfloat16, None), (torch.float16, 20000)])  # bytes
def test_equals_the_slow_reference(lengths, window, shifted, padding, budget, dtype, small):
    tensors, options, exact = solved(lengths, window, shifted=shifted, padding=padding, dtype=dtype, dim=8,
                                     scales=(1., 2., -1.))
    ours = by_backend('torch', tensors, options, budget=budget)
    assert {t.dtype for t in ours.values()} == {dtype}
    check(ours, exact, TOLERANCES['torch'][dtype], math.exp(2))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])  # the same for all
@given(st.data(), st.integers(1, 3), st.integers(1, 3), st.integers(1000, 50000), st.sampled_from(DTYPES))
def test_equals_the_slow_reference_everywhere(data, batch, num_heads, budget, dtype):
    axes = data.draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 7)), min_size=1, max_size=3))
    shifted, padding = data.draw(st.booleans()), data.draw(st.booleans())
    tensors, options = problem(*zip(*axes), shifted=shifted, batch=batch, num_heads=num_heads, padding=padding,
                               dtype=dtype, dim=8, scales=(1., 2., -1.))
    check(by_backend('torch', tensors, options, budget=budget), by_reference(tensors, options),
          TOLERANCES['torch'][dtype], math.exp(2))


@pytest.mark.parametrize('dtype', DTYPES)
def test_at_the_clamp_of_the_scale(dtype, small):
    """Where bfloat16 queries and keys would be 0.3 off in a logit; the scale has no gradient beyond the clamp."""
    tensors, options = problem((24, 20), (12, 10), dtype=dtype, dim=32, scales=(4.6, 6., 50.))
    ours = by_backend('torch', tensors, options)
    check(ours, by_reference(tensors, options), CLAMPED * TOLERANCES['torch'][dtype], 100.)
    assert not ours['logit_scale'][1:].any() and ours['logit_scale'][0] != 0


def test_float32_weights_have_float32_gradients():
    tensors, options = problem((11, 9), (4, 4), dtype=torch.bfloat16, dim=8)
    tensors |= {name: tensors[name].detach().float().requires_grad_() for name in ('table', 'logit_scale')}
    ours = by_backend('torch', tensors, options)
    assert [ours[name].dtype for name in ('out', 'qkv', 'table', 'logit_scale')] == [torch.bfloat16] * 2 + [
        torch.float32] * 2


def test_rows_of_zeros_and_of_any_length(small):
    """bfloat16 has the range of float32: queries, keys, values and gradients may be any."""
    tensors, options = problem((8, 8), (4, 4), dtype=torch.bfloat16, dim=8, scales=(1., 2., -1.))
    with torch.no_grad():
        tensors['qkv'][0, 0, 0] = 0
        tensors['qkv'][0, 1, :, :48] *= 1e-30  # queries and keys
        tensors['qkv'][0, 2, :, :48] *= 1e30
        tensors['qkv'][..., 48:56] *= 1e6  # values of the first head
        tensors['qkv'][..., 56:64] *= 1e-6
    ours, exact = by_backend('torch', tensors, options), by_reference(tensors, options)
    assert all(t.isfinite().all() for t in ours.values())
    assert not ours['qkv'][0, 0, 0, :48].any()  # a query and a key of zeros have a zero gradient
    for mine, right in zip(ours['out'].split(8, -1), exact['out'].split(8, -1)):
        assert (mine.double() - right).norm() <= 2**-7 * right.norm()
    for rows in (0, 1, 2, slice(3, 8)):
        for mine, right in zip(ours['qkv'][0, rows].split(8, -1), exact['qkv'][0, rows].split(8, -1)):
            assert (mine.double() - right).norm() <= 2**-5 * right.norm()


@pytest.mark.parametrize('size', [1e-30, 1e30])
def test_gradients_of_any_size(size):
    tensors, options = problem((8, 8), (4, 4), dtype=torch.bfloat16, dim=8, scales=(1., 2., -1.))
    out = window_attention(**tensors, **options, backend='torch')
    probe = torch.randn_like(out)
    ones = torch.autograd.grad(out, list(tensors.values()), probe, retain_graph=True)
    scaled = torch.autograd.grad(out, list(tensors.values()), probe * size)
    for a, b in zip(ones, scaled):
        torch.testing.assert_close(b.double() / size, a.double(), rtol=2**-6, atol=2**-6 * a.abs().max().item())


def test_nothing_overflows_where_all_keys_pull_alike():
    """Large cells, one key that all rows look at, and gradients of one sign."""
    tensors, options = problem((32, 64), (32, 64), batch=1, num_heads=1, dtype=torch.float16, dim=32, scales=(50.,))
    with torch.no_grad():
        tensors['qkv'][..., :32] = 1
        tensors['qkv'][..., 32:64] = -1
        tensors['qkv'][0, 0, :2, 32:64] = 1  # two keys
        tensors['qkv'][..., 64:] = 1.99
        tensors['qkv'][0, 0, 0, 64:] = -1.99
    out = window_attention(**tensors, **options, backend='torch')
    grads = torch.autograd.grad(out, list(tensors.values()), torch.full_like(out, 1.99))  # the stand-in asserts
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('lengths, window', [((11, 9), (4, 4)), ((4, 5, 6), (2, 3, 4)), ((6, 5), (6, 5))])
def test_the_log_sum_exp_of_each_row(lengths, window, dtype, small):
    """That of ``cells``, which is tested to be exact."""
    qkv, table, scale, *rest = operator_args(*problem(lengths, window, dtype=dtype, dim=8, scales=(1., 2., -1.)))
    ours = torch.ops.mmswinv2.window_attention(qkv, table, scale, *rest, 'torch')[1]
    exact = torch.ops.mmswinv2.window_attention(*(t.double() for t in (qkv, table, scale)), *rest, 'cells')[1]
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=1e-2)
    assert ours.dtype == torch.float32


def test_the_same_bits_each_time():
    tensors, options = problem((11, 9), (4, 4), dtype=torch.float16, dim=8)
    first, second = (by_backend('torch', tensors, options) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize('lengths, window', SIZES)
@pytest.mark.parametrize('shifted', [False, True])
def test_each_token_has_one_row_with_those_of_its_cell(lengths, window, shifted, small):
    grid = tuple(Axis.fit(n, size, shifted=shifted) for n, size in zip(lengths, window))
    order = torch_fused.row_order(2, grid, torch.device('cpu'))
    total = 2 * math.prod(lengths)
    assert order.rows[order.places].equal(torch.arange(total))
    assert order.padded == (len(order.rows) > total) == bool((order.rows == total).any())
    assert len(order.rows) == sum(part.cells * part.tokens for part in order.parts)
    cell = torch.full((total + 1,), -1)
    cells = reference.cells_of(lengths, [axis.window for axis in grid], [axis.shift for axis in grid])
    for image in range(2):
        for i, tokens in enumerate(cells):
            places = reference.flat(torch.tensor(tokens), lengths) + image * (total // 2)
            cell[places] = i + image * len(cells)
    for part in order.parts:
        found = cell[order.rows[part.first:part.first + part.cells * part.tokens]].view(part.cells, 1, part.tokens)
        alike, tokens = found.mT == found, (found >= 0) | (found >= 0).mT
        allowed = torch.ones_like(alike) if order.masks is None else order.masks[order.kinds][:, 0] == 0
        assert torch.equal(allowed[tokens], alike[tokens])
        assert allowed.diagonal(dim1=1, dim2=2).all()  # padding rows too: no softmax of nothing


def test_whole_windows_need_no_mask():
    order = row_order.row_order(3, (Axis(8, 4), Axis(6, 3)), torch.device('cpu'))
    assert order.masks is None and order.parts == (row_order.Part(0, 12, (4, 3)),)


@pytest.mark.parametrize('options, reason', [
    (dict(dtype=torch.float32), 'it is for float16 and bfloat16, not for float32'),
    (dict(dropout=.1), 'it has no dropout'),
    (dict(dim=4), 'it takes heads of a multiple of 8 channels, not of 4'),
])
def test_what_it_refuses(options, reason):
    dropout = options.pop('dropout', 0.)
    wanted = asked(*problem((8, 8), (4, 4), **{**dict(dtype=torch.float16, dim=8), **options}), dropout=dropout)
    assert torch_fused.refuses(wanted).startswith(reason)


def test_a_cpu_and_an_old_torch_are_refused():
    wanted = asked(*problem((8, 8), (4, 4), dtype=torch.float16, dim=8))
    # monkeypatch, begun before the emulation, would put the emulation back after it has ended
    with mock.patch.object(torch_fused, 'device_type', lambda device: device.type):
        assert torch_fused.refuses(wanted) == 'it is for CUDA devices, not for cpu'
    with mock.patch.object(torch_fused, 'HAS_OPERATORS', False):
        assert torch_fused.refuses(wanted).startswith(f'torch {torch.__version__} has no memory-efficient attention')


@pytest.fixture
def cuda_autocast(monkeypatch):
    """Autocast of CUDA to bfloat16 without CUDA, which ``torch.autocast`` would not switch on; and a copy without the
    guard of the device, which a build for CPUs has not."""
    monkeypatch.setattr(torch.Tensor, 'contiguous', lambda x: x.clone(memory_format=torch.contiguous_format))
    before = torch.is_autocast_enabled('cuda'), torch.get_autocast_dtype('cuda')
    torch.set_autocast_enabled('cuda', True)
    torch.set_autocast_dtype('cuda', torch.bfloat16)
    yield
    torch.set_autocast_enabled('cuda', before[0])
    torch.set_autocast_dtype('cuda', before[1])


def fake_net(width=1, **options):
    """On fake CUDA tensors: weights are not drawn, for which there would have to be a generator."""
    with torch.device('meta'):
        model = SwinTransformerV2(dict(SMALL, embed_dims=8 * width, num_heads=[1, 2]), window_size=4,
                                  out_indices=(0, 1), **options)
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            setattr(module, name, torch.nn.Parameter(torch.empty(p.shape, device='cuda'), requires_grad=False))
    return model


@needs_torch_2_4('fake CUDA tensors ask for a driver')
@pytest.mark.parametrize('backend, options, missing, kernel', [
    ('auto', {}, 'no Triton', 'torch?'), ('torch', dict(mask_padding=False), 'no Triton', 'torch'),
    ('auto', dict(width=4), None, 'triton?'), ('triton', dict(width=4), None, 'triton')])  # heads of 32 channels
def test_a_compiled_backbone_on_fake_cuda_tensors(backend, options, missing, kernel, cuda_autocast, monkeypatch):
    """One graph, in bfloat16, nothing on another device. Without gradients: those of fake CUDA tensors end a process
    that has no CUDA."""
    monkeypatch.setattr(launch, 'MISSING', missing)
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward
    with FakeTensorMode(), torch.no_grad():
        model = fake_net(attn_backend=backend, **options).eval()
        outs = torch.compile(model, backend=keep, fullgraph=True)(torch.empty(1, 3, 64, 52, device='cuda'))
    graph, = graphs
    calls = [node for node in graph.graph.nodes if node.target is torch.ops.mmswinv2.window_attention.default]
    assert [node.args[-1] for node in calls] == [kernel] * sum(SMALL['depths'])
    assert {(o.device.type, o.dtype) for o in outs} == {('cuda', torch.float32)}
    devices = {node.meta['example_value'].device.type for node in graph.graph.nodes
               if isinstance(node.meta.get('example_value'), torch.Tensor)}
    assert devices == {'cuda'}
