"""What blocks would launch, move and compute on a GPU, counted on the meta device."""
import json
import sys

import pytest
import torch
import torch.nn.functional as F

import gpu_cost
from gpu_cost import CASES, Cost, Counting, count
from mmswinv2.core.attention import torch_fused
from planner.meta import Autocast, autocast

pytestmark = pytest.mark.core


def test_one_launch_an_operation_and_its_bytes_once():
    cost = Cost()
    with Counting(cost):
        a, b = torch.empty(4, 8, device='meta'), torch.empty(8, 2, device='meta', dtype=torch.float32)
        c = a @ b
        c.view(2, 4).t().add_(1)  # a view is free; in place: read and written
        torch.mul(c, torch.empty(1, device='meta').expand(4, 2), out=torch.empty(4, 2, device='meta'))
        c.copy_(c.new_empty(1).expand(4, 2))
    assert [(x.name, x.flops, x.moved) for x in cost.launches] == [
        ('mm', 2 * 4 * 8 * 2, 4 * (32 + 16 + 8)), ('add_', 0, 4 * 16), ('mul', 0, 4 * (8 + 1 + 8)),
        ('copy_', 0, 4 * (1 + 8))]
    assert cost.gflop(torch.float32) == 128e-9 and cost.gflop(torch.bfloat16) == 0


def test_fused_attention_is_one_launch():
    cost = Cost()
    with Counting(cost):
        q = torch.empty(2, 3, 64, 32, dtype=torch.float16, device='meta')
        bias = torch.empty(1, 3, 64, 64, dtype=torch.float16, device='meta').expand(2, -1, -1, -1)
        torch.ops.aten._scaled_dot_product_efficient_attention(q, q, q, bias, True)
    launch, = cost.launches
    pairs = 2 * 3 * 64 * 64
    assert launch.flops == 4 * pairs * 32 and launch.pairs == pairs
    assert launch.moved == 2 * (4 * q.numel() + bias[0].numel()) + 4 * 2 * 3 * 64 + 2 * 8  # log-sum-exp, seed, offset


def test_autocast_is_that_of_cuda():
    """Seen with torch 2.13 on fake CUDA tensors: products in bfloat16, softmax and lengths in float32."""
    cost = Cost()
    x, layer = torch.empty(4, 8, device='meta'), torch.nn.Linear(8, 8, device='meta')
    with Counting(cost), autocast():
        y = layer(x)
        assert y.dtype == (y @ y.t()).dtype == torch.bfloat16
        assert F.normalize(y, dim=-1).dtype == y.softmax(-1).dtype == torch.float32
        assert layer(x).dtype == torch.bfloat16
        with Autocast.off(x.device):
            assert layer(x).dtype == torch.float32
    casts = [launch for launch in cost.launches if launch.name == '_to_copy' and launch.dtype == torch.float32]
    assert len(casts) == 1 + 2 + 1  # the input twice, weight and bias once


@pytest.mark.parametrize('mode, launches, gb', [('forward', 57, .0995), ('training', 155, .3137)])
def test_the_released_formula(mode, launches, gb):
    cost = count(CASES['t-256-w8-b1'], 'released', mode)
    assert len(cost.launches) == launches and round(cost.gb, 4) == gb
    assert cost.gflop(torch.float32) == 0


def test_rows(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['gpu_cost.py', '--json', '--cases', 't-256-w8-b1', '--modes', 'forward',
                                      '--backends', 'auto', 'eager', 'released'])
    gpu_cost.main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row['backend'] for row in rows] == ['auto', 'eager', 'released']
    assert rows[0].keys() == {'case', 'mode', 'backend', 'launches', 'gb', 'float32_product_gflop', 'model_ms'}
    assert rows[0]['model_ms'].keys() == gpu_cost.GPUS.keys()
    assert all(row['model_ms']['H100'] >= 4.9e-3 * row['launches'] for row in rows)  # the host's


BOUNDS = [  # launches, gigabytes
    ('g-stage1', 'triton', 'forward', 40, 12), ('g-stage1', 'triton', 'training', 130, 60),
    ('g-stage1', 'torch', 'forward', 130, 30), ('g-stage1', 'torch', 'training', 450, 130),
    ('l-stage1', 'torch', 'forward', 80, 7), ('l-stage1', 'torch', 'training', 280, 30),
    *((case, backend, mode, *most) for backend in ('auto', 'torch') for case, mode, most in [
        ('t-256-w8-b1', 'forward', (57, .1)), ('t-256-w8-b1', 'training', (155, .31)),
        ('t-256-w8-b64', 'forward', (57, 6.1)), ('t-256-w8-b64', 'training', (155, 19.6)),
        ('t-800x1333-w16-b2', 'forward', (57, 6.5)), ('t-800x1333-w16-b2', 'training', (155, 14))]),
]


@pytest.mark.parametrize('case, backend, mode, launches, gb', BOUNDS)
def test_a_gpu_has_little_to_do(case, backend, mode, launches, gb):
    """Fewer bytes than the released formula, and no more launches where windows are small."""
    if backend == 'torch' and not torch_fused.HAS_OPERATORS:
        pytest.skip('torch has no fused attention with a bias')
    cost = count(CASES[case], backend, mode)
    assert len(cost.launches) <= launches and cost.gb <= gb
    assert cost.gflop(torch.float32) <= 1  # the MLP of the position bias
    assert cost.gflop(torch.float16 if backend == 'torch' else torch.bfloat16) > 0
