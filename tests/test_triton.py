"""The Triton backend: its kernels in the interpreter and in the compiler, in processes of their own; what it refuses
and what it starts, which needs no Triton."""
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode

import helpers.attention as helpers
from helpers.attention import problem
from helpers.versions import needs_torch_2_4
from mmswinv2.core.attention import BACKENDS, Problem, choose
from mmswinv2.core.attention.triton import launch
from mmswinv2.core.grid import Axis

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[1]
needs_triton = pytest.mark.skipif(launch.MISSING is not None, reason=str(launch.MISSING))


def run(*command, interpret):
    """Runs Python with Triton's interpreter on or off, and a cache of its own where it compiles."""
    env = {k: v for k, v in os.environ.items() if k not in ('TRITON_INTERPRET', 'PYTEST_ADDOPTS')}
    env.update({'TRITON_INTERPRET': '1'} if interpret else {}, OMP_NUM_THREADS='1')
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=280, env=env,
                          cwd=ROOT)


def interpreter_fails(triton, numpy):
    """Why Triton's interpreter does not run beside a numpy, or None; versions as text."""
    older = [tuple(map(int, version.split('.')[:2])) for version in (triton, numpy)]
    if older[0] < (3, 7) and older[1] >= (2, 4):  # interpreter.py makes numbers of arrays with one element
        return f'the interpreter of Triton {triton} does not run with numpy {numpy}: it needs Triton 3.7 or numpy < 2.4'
    return None


@pytest.mark.parametrize('triton, numpy, fails', [('3.6.0', '2.4.6', True), ('3.6.0', '2.3.5', False),
                                                  ('3.8.0', '2.4.6', False), ('3.10.0', '2.10.0', False)])
def test_the_reason_why_the_interpreter_is_not_run(triton, numpy, fails):
    assert (interpreter_fails(triton, numpy) is not None) == fails


@needs_triton
def test_kernels_in_the_interpreter():
    """It is chosen when Triton is imported, which other tests of this process must not see."""
    reason = interpreter_fails(*(import_module(name).__version__ for name in ('triton', 'numpy')))
    if reason is not None:
        pytest.skip(reason)
    result = run('-m', 'pytest', '-q', '-p', 'no:xdist', '-p', 'no:cacheprovider',
                 'tests/interpreted/triton_kernels.py', interpret=True)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]
    assert 'passed' in result.stdout and 'skipped' not in result.stdout


def compile_rows(*options):
    result = run('benchmarks/triton_compile.py', '--json', *options, interpret=False)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert rows, result.stderr[-3000:]
    return rows, result


def check_compiled(rows, result):
    for row in rows:
        assert row.keys() == {'kernel', 'arch', 'registers', 'spills', 'shared', 'atomics'}
        assert row['spills'] == row['atomics'] == 0 and row['shared'] <= 99 * 1024 and row['registers'] <= 255, row
    assert result.returncode == 0, result.stderr[-3000:]


@needs_triton
@pytest.mark.parametrize('arch', [pytest.param(80, marks=pytest.mark.slow), 90])
def test_kernels_compile_without_a_gpu(arch):
    rows, result = compile_rows('--arch', arch, '--window', 32, '--dtype', 'bf16')
    assert len(rows) == 9
    check_compiled(rows, result)


@needs_triton
@pytest.mark.slow
def test_every_variant_compiles():
    rows, result = compile_rows()
    assert len(rows) == 3 * 2 * (1 + 3 * 4 * 2)
    check_compiled(rows, result)


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize('recipe', [
    'htc_swinv2_l_ms-400-1400', 'cascade-mask-rcnn_swinv2_t', 'coco_instance_ms-480-800'])
def test_multi_scale_training_compiles_nothing_after_its_first_iteration(recipe):
    """One variant of ``lengths``, and of each other kernel one for border cells and one for whole windows of each size;
    sizes, heads, and windows that small maps cut are no constants."""
    result = run('tests/helpers/jit_keys.py', recipe, interpret=False)
    assert json.loads(result.stdout or '{}') == {'1': 13, '10': 13, '100': 13, '300': 13}, result.stderr[-3000:]


def asked(lengths=(8, 8), window=(4, 4), *, device='meta', dropout=0., **options):
    options = dict(dict(dim=32, dtype=torch.bfloat16), **options)
    return helpers.asked(*problem(lengths, window, **options), device=device, dropout=dropout)


@pytest.mark.parametrize('options, reason', [
    (dict(dtype=torch.float64), 'it computes in float16, bfloat16 or float32, got torch.float64'),
    (dict(dropout=.1), 'it has no dropout, got dropout=0.1'),
    (dict(dim=24), 'heads must have 16, 32 or 64 channels, got 24'),
    (dict(dim=8), 'heads must have .* got 8'),
    (dict(dim=128), 'heads must have .* got 128'),
    (dict(device='cpu'), 'kernels run on CUDA devices, or interpreted .* got a cpu tensor'),
])
def test_what_is_refused(options, reason, monkeypatch):
    monkeypatch.setattr(launch, 'MISSING', None)
    monkeypatch.setattr(launch, 'INTERPRETED', False)
    with pytest.raises(RuntimeError, match=f"backend 'triton' does not support this input: {reason}; attn_backend='"):
        choose(asked(**options), 'triton')


@needs_torch_2_4('fake CUDA tensors ask for a driver')
@pytest.mark.skipif(torch.cuda.is_available(), reason='the GPU that is there decides')
def test_auto_takes_it_on_cuda_in_half_precision_where_it_can(monkeypatch):
    monkeypatch.setattr(launch, 'INTERPRETED', False)
    names = []
    for missing in (None, 'Triton is not there'):
        monkeypatch.setattr(launch, 'MISSING', missing)
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            wanted = asked(dtype=dtype)
            with FakeTensorMode():
                on_cuda = [torch.empty(t.shape, dtype=dtype, device='cuda')
                           for t in (wanted.qkv, wanted.table, wanted.logit_scale)]
                names.append(choose(Problem(*on_cuda, wanted.grid)).name)
    assert names == ['triton', 'triton', 'cells', 'torch', 'torch', 'cells']


@needs_torch_2_4('fake CUDA tensors ask for a driver')
def test_rocm_is_refused(monkeypatch):
    """Its devices say that they are CUDA's, of a capability above 8."""
    monkeypatch.setattr(launch, 'MISSING', None)
    monkeypatch.setattr(launch, 'INTERPRETED', False)
    wanted = asked(dtype=torch.bfloat16)
    with FakeTensorMode():
        wanted = Problem(*(torch.empty(t.shape, dtype=torch.bfloat16, device='cuda')
                           for t in (wanted.qkv, wanted.table, wanted.logit_scale)), wanted.grid)
        assert BACKENDS['triton'].refuses(wanted) is None
        monkeypatch.setattr(torch.version, 'hip', '6.4')
        assert BACKENDS['triton'].refuses(wanted) == 'kernels were never compiled for ROCm'


def test_a_window_too_large_is_refused():
    grid = (Axis(2000, 200), Axis(2000, 200))
    wanted = Problem(torch.empty(1, 2000, 2000, 96, device='meta'), torch.empty(1, 399, 399, device='meta'),
                     torch.empty(1, device='meta'), grid)
    assert 'windows must have at most 32768 tokens' in BACKENDS['triton'].refuses(wanted)


def test_reasons_of_the_machine(monkeypatch):
    monkeypatch.setattr(launch, 'MISSING', 'Triton is not there')
    assert BACKENDS['triton'].refuses(asked()) is None  # on the meta device nothing is started
    assert BACKENDS['triton'].refuses(asked(device='cpu')) == 'Triton is not there'
    monkeypatch.setattr(launch, 'MISSING', None)
    monkeypatch.setattr(launch, 'INTERPRETED', True)
    assert BACKENDS['triton'].refuses(asked(device='cpu')) is None


@pytest.mark.parametrize('version, refused', [('2.3.1', True), ('3.0.0', False), ('3.8.0', False), ('10.1+x', False)])
def test_an_old_triton_is_refused(version, refused, monkeypatch):
    monkeypatch.setattr(launch, 'find_spec', lambda name: object())
    monkeypatch.setattr(launch.metadata, 'version', lambda name: version)
    assert launch._missing() == (f'Triton must be 3.0 or newer, got {version}' if refused else None)


def started(lengths, window, heads, budget=2**29):
    """What is started on the meta device, forward and backward: (kernel, flops, pairs, names of tensors, writes)."""
    calls = []
    launch.OBSERVERS.append(lambda kernel, tensors, flops, pairs, dtype, writes: calls.append(
        (kernel, flops, pairs, tensors, writes)))
    try:
        wanted = asked(lengths, window)
        qkv = torch.empty(1, *lengths, 96 * heads, dtype=torch.bfloat16, device='meta')
        weights = (torch.empty(heads, *wanted.table.shape[1:], device='meta'),
                   torch.empty(heads, 1, 1, device='meta'), None)
        options = wanted.grid, 0., budget
        results = launch.forward(qkv, *weights, *options)
        forward = calls[:]
        calls.clear()
        grads = launch.backward(results[0], qkv, *weights, *results, *options)
        assert [g.shape for g in grads] == [qkv.shape, weights[0].shape, weights[1].shape]
    finally:
        launch.OBSERVERS.pop()
    return forward, calls, wanted


@pytest.mark.parametrize('lengths, window, budget', [((384, 384), (32, 32), 2**29), ((64, 64), (8, 8), 2**29),
                                                     ((11, 13), (4, 4), 2**29), ((64, 64), (16, 16), 2**22)])
def test_what_is_started_and_told_to_observers(lengths, window, budget):
    """Each pair once per kernel; no more than the map, or the budget, is allocated for what is summed."""
    forward, backward, wanted = started(lengths, window, 16, budget)
    pairs = 16 * wanted.grid[0].pairs * wanted.grid[1].pairs
    names = [kernel for kernel, *_ in forward + backward]
    assert names[:3] == ['lengths', 'forward', 'forward'] and names[3] == 'lengths'
    assert set(names) == {'lengths', 'forward', 'backward_q', 'backward_kv', 'backward_bias'}
    for kernel, products in (('forward', 2), ('backward_q', 4), ('backward_kv', 4), ('backward_bias', 2)):
        calls = [call for call in forward + backward if call[0] == kernel]
        assert sum(call[2] for call in calls) == pairs
        assert sum(call[1] for call in calls) == 2 * 32 * products * pairs
        assert all(set(call[4]) <= call[3].keys() for call in calls)
    parts = [call[3]['parts'].nbytes for call in backward if call[0] == 'backward_bias']
    n = window[0] * window[1]
    assert max(parts) <= max(budget // 4, 2 * 4 * n * n)


@pytest.mark.skipif(torch.cuda.is_available(), reason='a test on the GPU may have started one')
def test_kernels_are_imported_where_one_is_started_only():
    assert 'mmswinv2.core.attention.triton.kernels' not in sys.modules
