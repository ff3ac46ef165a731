"""The memory planner against tensors that are really alive during a step, and its command line."""
from itertools import product
from math import prod

import pytest
import torch

import measure
import planner_sharded
from mmswinv2.core import BackboneConfig, SwinTransformerV2, layers
from mmswinv2.models import SwinTransformerV2 as MMEngineBackbone
from planner.counting import LiveBytes, Setting, backbone_memory
from planner.sharding import Sharding
from planner.steps import Model, plan_step

pytestmark = pytest.mark.mmengine

ALONE = Sharding(state_bytes=0, foreach=False)


TOLERANCE = .02  # docs/performance.md


def config(arch, window, **options):
    return BackboneConfig(arch=arch, **dict(dict(window_size=window, out_indices=(0,)), **options))


def predicted(net, size, batch, *, autocast=False):
    step = backbone_memory(Setting(net.config, autocast, device='cpu'), size, batch)
    numbers = [sum(p.numel() for p in net.parameters() if p.requires_grad or not only) for only in (False, True)]
    # the loss: a gradient, twice the output, and their product
    shapes = [(net.arch.dims[i], *net.map_lengths(size)[i]) for i in net.out_indices if i >= net.frozen_stages]
    return plan_step(step, Model(*numbers, heads_peak=12 * batch * max(map(prod, shapes), default=0)), ALONE)


def measured(net, size, batch, *, autocast=False):
    """The peak of a step, and what there is when the forward pass has ended, in bytes."""
    x = torch.randn(batch, 3, *size)
    half = torch.autocast('cpu', torch.bfloat16, enabled=autocast, cache_enabled=False)
    with torch.no_grad(), half:
        net(x)  # makes what is made once
    with LiveBytes(x, *net.parameters()) as live:
        with half:
            outs = net(x)
        kept = live.live
        loss = sum(o.square().mean() for o in outs)
        del outs
        loss.backward()
    return live.peak + x.nbytes + sum(p.nbytes for p in net.parameters()), kept


def check(net, size, batch):
    plan, (peak, kept) = predicted(net, size, batch), measured(net, size, batch)
    assert plan.peak == pytest.approx(peak, rel=TOLERANCE)
    assert plan.activations == pytest.approx(kept, rel=TOLERANCE)


TWO = dict(embed_dims=64, depths=[2, 1], num_heads=[2, 4])
THREE = dict(embed_dims=32, depths=[2, 1, 1], num_heads=[2, 4, 8])


@pytest.mark.parametrize('arch, size, batch, window, backend, cp', [
    (THREE, (96, 96), 2, 8, 'auto', False), (THREE, (96, 96), 2, 8, 'cells', True),
    (THREE, (96, 96), 2, 8, 'eager', True), (TWO, (100, 132), 1, 8, 'auto', True),
    (TWO, (100, 132), 1, 8, 'cells', False), (TWO, (100, 132), 1, 8, 'eager', False),
    *(pytest.param('tiny', (256, 384), 1, 16, backend, cp, marks=pytest.mark.slow)
      for backend, cp in product(['auto', 'cells', 'eager'], [False, True]))])
def test_the_peak_is_that_of_live_tensors(arch, size, batch, window, cp, backend):
    stages = 4 if arch == 'tiny' else len(arch['depths'])
    check(SwinTransformerV2(arch, window_size=window, with_cp=cp, attn_backend=backend, attn_budget_mib=4,
                            drop_path_rate=0., out_indices=range(stages)), size, batch)


def test_eager_casts_a_group_at_a_time():
    """Under autocast; whole maps in float32 would be a sixth more."""
    net = SwinTransformerV2(TWO, window_size=8, attn_backend='eager', drop_path_rate=0., out_indices=(0, 1))
    plan = predicted(net, (200, 260), 1, autocast=True)
    assert plan.peak == pytest.approx(measured(net, (200, 260), 1, autocast=True)[0], rel=.05)  # a CPU's autocast


@pytest.mark.parametrize('backend', ['cells', 'eager'])
def test_queries_keys_and_values_are_gone_before_the_projection(backend):
    net, seen = SwinTransformerV2(TWO, window_size=8, attn_backend=backend, out_indices=(0,)), []
    x = torch.randn(1, 3, 256, 256)
    unit = 4 * 64 * 64 * 64  # bytes of a map of the first stage
    with torch.no_grad(), LiveBytes(x, *net.parameters()) as live:
        net.layers[0].blocks[0].attn.proj.register_forward_pre_hook(lambda *_: seen.append(live.live))
        net(x)
    assert 2 * unit <= seen[0] < 3 * unit  # the stream, and the result of attention


@pytest.mark.parametrize('frozen, mlp_ratio, cp', [
    (0, 4., False), (1, 4., True), (1, 4., False), (2, 4., True), (-1, 2., False), (1, 6., True)])
def test_frozen_stages_and_other_mlps(frozen, mlp_ratio, cp):
    check(SwinTransformerV2(THREE, window_size=8, with_cp=cp, attn_budget_mib=1, drop_path_rate=0.,
                            out_indices=(0, 1, 2), frozen_stages=frozen, mlp_ratio=mlp_ratio), (128, 128), 1)


@pytest.mark.parametrize('backend, cp, options', [
    ('cells', False, dict(position_bias='parameterized')), ('eager', True, dict(position_bias='parameterized')),
    ('cells', True, dict(window_fit='balanced')), ('eager', False, dict(window_fit='balanced')),
    ('cells', False, dict(mask_padding=False)), ('cells', True, dict(attn_drop_rate=.1))])
def test_other_windows(backend, options, cp):
    check(SwinTransformerV2(THREE, window_size=12, with_cp=cp, attn_backend=backend, attn_budget_mib=1,
                            drop_path_rate=0., out_indices=(0, 1, 2), **options), (104, 140), 1)


def test_the_chosen_backend():
    """A shifted map has fewer pairs of tokens, and may fit the budget where another does not: ``auto`` takes both."""
    kept = [backbone_memory(Setting(config(dict(embed_dims=32, depths=[2], num_heads=[2]), 8, attn_backend=backend,
                                           attn_budget_mib=1), device='cpu'), (128, 160), 2).kept
            for backend in ('cells', 'auto', 'eager')]
    maps = 4 * 2 * 2 * 32 * 40 * 64  # of windows, and fewer of moved ones
    assert kept[0] < kept[1] < kept[2]
    assert kept[1] - kept[0] < kept[2] - kept[1] and kept[2] - kept[1] == pytest.approx(maps, rel=.1)


@pytest.mark.parametrize('cp, chunk, units', [
    (False, 2**20, 16), (True, 2**20, None), (False, 4 * 64 * 32 // 2, 8), (True, 4 * 64 * 32 // 2, None)])
def test_what_is_kept_per_stage(cp, chunk, units, monkeypatch):
    """By hand: one block of T = 64, C = 8, nH = 2 keeps 16 T C, without its MLP's hidden map 8 T C, a log-sum-exp, two
    statistics of two norms, and its position bias; checkpointed, its input. Outside: the pixels, the patches, the last
    map, the output, and two statistics of two norms."""
    monkeypatch.setattr(layers, 'CHUNK_BYTES_CPU', chunk)
    net = SwinTransformerV2(dict(embed_dims=8, depths=[1], num_heads=[2]), window_size=4, out_indices=(0,),
                            with_cp=cp, attn_backend='cells', attn_budget_mib=1)
    block = 4 * 64 * 8 if cp else 4 * 64 * (8 * units + 2 + 4) + 4 * 49 * (512 + 4)
    assert predicted(net, (32, 32), 1).activations == block + 4 * 64 * (48 + 8 + 8 + 8 + 4)
    check(net, (32, 32), 1)


def small_step():
    return backbone_memory(Setting(config(dict(embed_dims=8, depths=[2], num_heads=[2]), 4)), (32, 32), 1)


@pytest.mark.parametrize('sharding, weights, buckets, gradients, states, stepping', [
    (Sharding('none', 1), 4, 0, 4, 8, 4),  # bytes per parameter, times 8 GPUs below
    (Sharding('none', 8), 4, 4, 0, 8, 4),
    (Sharding('none', 8, bucket_view=False), 4, 4, 4, 8, 4),
    (Sharding('none', 8, foreach=False), 4, 4, 0, 8, 0),
    (Sharding('zero1', 8), 4, 4, 0, 1, .5),
    (Sharding('fsdp', 8), .5, 0, .5, 1, .5),
    (Sharding('fsdp', 8, state_bytes=4, foreach=False), .5, 0, .5, .5, 0),
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
    assert sharding.gathered(200, before=100, after=300, gradients=None) == 4 * (200 + 200 + 300)
    assert sharding.gathered(200, before=300, after=100, gradients=0) == 4 * (200 + 100 + 300)
    assert sharding.gathered(200, before=300, after=100, gradients=150) == 4 * (200 + 150 + 100 + 300)
    assert Sharding('zero1', 4).gathered(200, before=300, after=100, gradients=150) == 0
    assert Sharding('zero1', 4).root(10, backward=True) == 0


@pytest.mark.parametrize('sharding, moment', [
    (Sharding('none', 2), 4 + 4 + 8 + 4), (Sharding('none', 2, foreach=False), 4 + 4 + 8),
    (Sharding('zero1', 2), 4 + 4 + 4 + 2), (Sharding('fsdp', 2), 2 + 2 + 4 + 2)])
def test_the_peak_is_at_the_step_where_weights_are_most(sharding, moment):
    """By hand: 10^9 parameters beside a backbone of next to none."""
    n = 10**9
    plan = plan_step(small_step(), Model(2000, 2000, n, n, units=(n,)), sharding)
    if sharding.foreach and sharding.strategy != 'fsdp':
        assert plan.moment == 'step'
    at_step = (plan.weights + plan.optimizer + sharding.buckets(n + 2000) + sharding.gradients(n + 2000)
               + sharding.stepping(n + 2000))
    assert at_step == moment * (n + 2000) and plan.peak >= at_step


def test_heads_are_a_moment_of_their_own():
    without = plan_step(small_step(), Model(2000, 2000), ALONE)
    plan = plan_step(small_step(), Model(2000, 2000, heads_kept=10**9, heads_peak=3 * 10**9), ALONE)
    assert plan.moment == 'heads' and plan.heads == 10**9 and plan.workspace == 2 * 10**9
    assert plan.peak == 8000 + 12 * 32 * 32 + without.activations + 3 * 10**9  # weights and images in float32


def test_autocast_keeps_copies_only_where_it_is_told():
    options = config(dict(embed_dims=64, depths=[1, 1, 20], num_heads=[2, 4, 8]), 8, with_cp=True,
                     out_indices=(0, 1, 2), position_bias='parameterized')
    steps = [backbone_memory(Setting(options, True, cache), (64, 64), 1) for cache in (False, True)]
    copies = 2 * sum(steps[0].blocks)
    peaks = [max(part.peak for part in step.forward) for step in steps]
    assert .97 * copies < peaks[1] - peaks[0] < copies


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
    with pytest.raises(ValueError, match='strategy must be one of none, zero1, fsdp, got .zero3.'):
        Sharding('zero3')
    with pytest.raises(ValueError, match='gpus must be >= 1, got 0'):
        Sharding('fsdp', 0)


@pytest.mark.slow
@pytest.mark.parametrize('strategy', planner_sharded.STRATEGIES)
def test_two_processes(strategy):
    case = next(i for i, c in enumerate(planner_sharded.CASES) if c[0] == 'tiny' and c[2] == strategy)
    r = measure.in_fresh_process(planner_sharded.__file__, case, returned=True)
    plan = planner_sharded.predict(*planner_sharded.CASES[case], r['parameters'])
    assert plan.peak == pytest.approx(r['peak'], rel=.1)
