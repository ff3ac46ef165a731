"""The memory planner against tensors that are really alive during a step, and its command line."""
from dataclasses import replace

import pytest
import torch

import measure
import planner_sharded
from helpers.backbones import SMALL
from mmswinv2.core import SwinTransformerV2, get_arch
from mmswinv2.core.live_bytes import LiveBytes
from mmswinv2.core.memory import Model, Setting, plan_step, stage_sizes
from mmswinv2.core.sharding import Sharding
from mmswinv2.models import SwinTransformerV2 as MMEngineBackbone

pytestmark = pytest.mark.mmengine

ALONE = Sharding(state_bytes=0, foreach=False)


def predicted(net, size, batch, cp, backend, mlp_ratio=4.):
    sizes = stage_sizes(net.arch, net.window_sizes, *size, batch, mlp_ratio=mlp_ratio)
    setting = Setting(cp, backend, 1, frozen_stages=net.frozen_stages, outputs=net.out_indices)
    numbers = [sum(p.numel() for p in net.parameters() if p.requires_grad or not only) for only in (False, True)]
    return plan_step(sizes, setting, Model(*numbers, image_bytes=12 * batch * size[0] * size[1]), ALONE)


def measured(net, size, batch):
    x = torch.randn(batch, 3, *size)
    with LiveBytes(x, *net.parameters()) as live:
        outs = net(x)
        backward = [o for o in outs if o.requires_grad]
        torch.autograd.backward(backward, [torch.ones_like(o) for o in backward])
    return live.peak + x.nbytes + sum(p.nbytes for p in net.parameters())


@pytest.mark.parametrize('arch, size, batch, window', [('tiny', (224, 224), 2, 8), ('tiny', (256, 384), 1, 16),
                                                       (dict(SMALL, embed_dims=64), (200, 260), 1, 8)])
@pytest.mark.parametrize('cp, backend', [(False, 'auto'), (True, 'auto'), (False, 'eager'), (True, 'eager')])
def test_the_peak_is_that_of_live_tensors(arch, size, batch, window, cp, backend):
    stages = 4 if arch == 'tiny' else 2
    net = SwinTransformerV2(arch, window_size=window, with_cp=cp, attn_backend=backend, attn_budget_mib=1,
                            drop_path_rate=0., out_indices=tuple(range(stages)))
    assert predicted(net, size, batch, (cp,) * stages, backend).peak == pytest.approx(measured(net, size, batch),
                                                                                      rel=.15)


@pytest.mark.parametrize('cp', [False, True])
@pytest.mark.parametrize('frozen, mlp_ratio', [(0, 4.), (1, 4.), (2, 4.), (-1, 2.), (1, 6.)])
def test_frozen_stages_and_other_mlps(frozen, mlp_ratio, cp):
    arch = dict(embed_dims=32, depths=[2, 2, 2], num_heads=[2, 4, 8])
    net = SwinTransformerV2(arch, window_size=8, with_cp=cp, attn_budget_mib=1, drop_path_rate=0.,
                            out_indices=(0, 1, 2), frozen_stages=frozen, mlp_ratio=mlp_ratio)
    plan = predicted(net, (256, 256), 1, (cp,) * 3, 'auto', mlp_ratio)
    assert plan.peak == pytest.approx(measured(net, (256, 256), 1), rel=.15)


def test_what_is_kept_per_stage():
    """Plain, by hand: one block of T = 64, C = 8 keeps 16 T C and its bias; the patches and the output 2 T C each."""
    net = SwinTransformerV2(dict(embed_dims=8, depths=[1], num_heads=[2]), window_size=4, out_indices=(0,))
    plan = predicted(net, (32, 32), 1, (False,), 'auto')
    assert plan.activations == (4 * 64 * 8 * (16 + 2 + 2) + 4 * 49 * (512 + 8),)
    plan = predicted(net, (32, 32), 1, (True,), 'auto')
    assert plan.activations == (4 * 64 * 8 * (1 + 2 + 2),)


ONE = dict(embed_dims=8, depths=[2], num_heads=[2])  # a stage of two blocks


@pytest.mark.parametrize('sharding, weights, buckets, gradients, states, stepping', [
    (Sharding('none', 1), 4, 0, 4, 8, 4),  # bytes per parameter, times 8 GPUs below
    (Sharding('none', 8), 4, 4, 0, 8, 4),
    (Sharding('none', 8, bucket_view=False), 4, 4, 4, 8, 4),
    (Sharding('none', 8, foreach=False), 4, 4, 0, 8, 0),
    (Sharding('zero1', 8), 4, 4, 0, 1, .5),
    (Sharding('fsdp', 8), .5, 0, .5, 1, .5),
    (Sharding('fsdp', 8, state_bytes=4, foreach=False), .5, 0, .5, .5, 0),
    (Sharding('deepspeed', 8), 4, 0, 4, 1.5, 1.5),  # 12 / 8; (4 + 8) / 8
    (Sharding('deepspeed', 8, foreach=False), 4, 0, 4, 1.5, 1),
])
def test_bytes_per_parameter(sharding, weights, buckets, gradients, states, stepping):
    n = 8000
    got = [f(n) / n for f in (sharding.weights, sharding.buckets, sharding.gradients, sharding.states,
                              sharding.stepping)]
    assert got == [weights, buckets, gradients, states, stepping]


def test_what_fsdp_gathers():
    """Root of 10, blocks of 100, 200, 300: four bytes each of weights, gradients and buffers."""
    sharding = Sharding('fsdp', 4)
    assert sharding.root(10, backward=False) == 40 and sharding.root(10, backward=True) == 80
    assert sharding.gathered(200, before=100, after=300, backward=False) == 4 * (200 + 200 + 300)
    assert sharding.gathered(200, before=300, after=100, backward=True) == 4 * (200 + 200 + 100 + 300)
    assert Sharding('zero1', 4).gathered(200, before=300, after=100, backward=True) == 0
    assert Sharding('zero1', 4).root(10, backward=True) == 0


def test_deepspeed_averages_in_a_bucket():
    assert Sharding('deepspeed', 8).reducing(800) == 4 * 800 + 4 * 800 / 8
    assert Sharding('deepspeed', 8).reducing(3 * 10**9) == 2 * 10**9 + 1500 * 10**6
    assert Sharding('fsdp', 8).reducing(800) == 0


@pytest.mark.parametrize('sharding, moment', [
    (Sharding('none', 2), 4 + 4 + 8 + 4), (Sharding('none', 2, foreach=False), 4 + 4 + 8),
    (Sharding('zero1', 2), 4 + 4 + 4 + 2), (Sharding('fsdp', 2), 2 + 2 + 4 + 2)])
def test_the_peak_is_at_the_step_where_weights_are_most(sharding, moment):
    """By hand: 10^9 parameters beside a backbone of next to none."""
    sizes = stage_sizes(get_arch(ONE), [(4, 4)], 32, 32, 1)
    n = 10**9
    plan = plan_step(sizes, Setting((False,), budget_mib=1), Model(2000, 2000, n, n, units=(n,)), sharding)
    if sharding.foreach and sharding.strategy != 'fsdp':
        assert plan.moment == 'step'
    at_step = (plan.weights + plan.optimizer + sharding.buckets(n + 2000) + sharding.gradients(n + 2000)
               + sharding.stepping(n + 2000))
    assert at_step == moment * (n + 2000) and plan.peak >= at_step


def test_heads_are_a_moment_of_their_own():
    sizes = stage_sizes(get_arch(ONE), [(4, 4)], 32, 32, 1)
    setting = Setting((False,), budget_mib=1, outputs=(0,))
    without = plan_step(sizes, setting, Model(2000, 2000), ALONE)
    plan = plan_step(sizes, setting, Model(2000, 2000, heads_kept=10**9, heads_peak=3 * 10**9), ALONE)
    assert plan.moment == 'heads' and plan.heads == 10**9 and plan.workspace == 2 * 10**9
    assert plan.peak == 8000 + sum(without.activations) + 3 * 10**9  # weights in float32


def test_autocast_keeps_copies_only_where_it_is_told():
    sizes = stage_sizes(get_arch('g'), [(32, 32)] * 3 + [(16, 16)], 256, 256, 1)
    setting = Setting((True,) * 4, autocast=True, outputs=(0, 1, 2, 3))
    model = Model(3 * 10**9, 3 * 10**9)
    peaks = [plan_step(sizes, replace(setting, cast_cache=cache), model, Sharding('zero1', 64))
             for cache in (False, True)]
    copies = 2 * sum(s.matrices * s.depth for s in sizes)
    assert peaks[1].moment == 'forward' and copies < peaks[1].workspace < 1.1 * copies
    assert peaks[0].moment == 'backward' and peaks[0].workspace < copies / 5


def test_the_backbone_casts_without_a_cache():
    """With one, 16-bit copies of all weights would be alive when the last block has run."""
    arch = dict(embed_dims=64, depths=[6], num_heads=[2])
    net = MMEngineBackbone(arch, window_size=4, with_cp=True, out_indices=(0,), autocast_dtype='bfloat16')
    copies = 2 * 6 * 12 * 64**2
    seen = []
    x = torch.randn(1, 3, 32, 32)
    with LiveBytes(x, *net.parameters()) as live:
        net.norm0.register_forward_pre_hook(lambda module, args: seen.append(live.live))
        net(x)
    assert len(seen) == 1 and seen[0] < copies / 2


def test_unknown_strategy():
    with pytest.raises(ValueError, match='strategy must be one of none, zero1, fsdp, deepspeed, got .zero3.'):
        Sharding('zero3')
    with pytest.raises(ValueError, match='gpus must be >= 1, got 0'):
        Sharding('fsdp', 0)


@pytest.mark.slow
@pytest.mark.parametrize('strategy', planner_sharded.STRATEGIES)
def test_two_processes(strategy):
    case = next(i for i, c in enumerate(planner_sharded.CASES) if c[0] == 'tiny' and c[2] == strategy)
    r = measure.in_fresh_process(planner_sharded.__file__, case, returned=True)
    plan = planner_sharded.predict(*planner_sharded.CASES[case], r['parameters'])
    assert plan.peak == pytest.approx(r['peak'], rel=.15)
