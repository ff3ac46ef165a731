"""The backbone over (t, h, w): against the slow reference, inflated weights, memory, counts, errors."""
from math import prod

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import reference
from helpers.backbones import backbone, randomize
from helpers.files import FILES
from helpers.versions import needs_torch_2_4
from mmswinv2.core import SwinTransformerV2, VideoSwinTransformerV2
from mmswinv2.core.attention import cells
from mmswinv2.core.attention.config import MIB
from mmswinv2.core.flops import attention_macs
from mmswinv2.core.grid import Axis, groups
from mmswinv2.core.weights import (
    check_complete,
    config_of,
    inflate,
    load_backbone,
    read_backbone_state,
    to_layout,
)
from planner.counting import LiveBytes, Setting, backbone_memory
from planner.sharding import Sharding
from planner.steps import Model, plan_step

pytestmark = pytest.mark.core

SMALL = dict(embed_dims=8, depths=(2, 2), num_heads=(2, 4))
WINDOWS = [(2, 3, 4), (3, 2, 2)]
BEFORE = [(1, 4, 2), (4, 3, 5)]  # windows of pre-training, one of a single frame


def video(arch=SMALL, **options):
    """A backbone with random weights in float64."""
    options = dict(dict(window_size=WINDOWS, pretrained_window_sizes=BEFORE, out_indices=(0, 1), drop_path_rate=0.),
                   **options)
    return randomize(VideoSwinTransformerV2(arch, **options).double())


def clip(*shape):
    return torch.randn(*shape, dtype=torch.float64)


KINDS = ['log_cpb', 'linear_cpb', 'parameterized']


@pytest.mark.parametrize('size, options, said', [
    *((size, dict(temporal_patch_size=patch), {}) for size, patch in (
        ((1, 33, 40), 1), ((1, 33, 40), 2), ((3, 33, 40), 4), ((4, 33, 40), 2), ((6, 33, 40), 1), ((1, 1, 1), 2),
        ((3, 1, 50), 1))),
    *(((9, 45, 37), dict(attn_backend=backend, position_bias=kind), dict(kind=kind))
      for backend in ('eager', 'cells') for kind in KINDS),
    ((5, 45, 37), dict(mask_padding=False), dict(mask_padding=False)),
    ((5, 45, 37), dict(norm_placement='pre'), dict(placement='pre'))])
def test_equals_the_slow_reference(size, options, said):
    """Also at sizes that no window and no patch divides."""
    net, x = video(**options), clip(2, 3, *size)
    outs = reference.backbone(net.state_dict(), x, depths=net.arch.depths, num_heads=net.arch.num_heads,
                              windows=net.window_sizes, pretrained=net.pretrained_window_sizes,
                              out_indices=net.out_indices, **said)
    patches = options.get('temporal_patch_size', 2), 4, 4
    for i, (out, wanted) in enumerate(zip(net(x), outs, strict=True)):
        t, h, w = (-(-n // patch) for n, patch in zip(size, patches))
        assert out.shape == (2, 8 << i, t, -(-h // (1 << i)), -(-w // (1 << i)))
        torch.testing.assert_close(out, wanted, atol=1e-10, rtol=0)


@pytest.mark.parametrize('options', [dict(with_cp=True), dict(attn_backend='cells'), dict(attn_budget_mib=1)])
def test_gradients_do_not_depend_on_how(options):
    nets = [video(attn_backend='eager'), video(**options)]
    x, grads = clip(2, 3, 6, 41, 36), []
    for net in nets:
        sum(out.square().mean() for out in net(x)).backward()
        grads.append({name: p.grad for name, p in net.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-10, rtol=1e-9, msg=name)
    assert grads[0]['layers.0.blocks.1.attn.cpb_mlp.0.weight'].abs().amin(0).shape == (3,)


def count_groups(tokens, window):
    block = video(window_size=[window, window], pretrained_window_sizes=None).layers[0].blocks[1]
    return len(list(groups(block.attn.grid(tokens, shifted=True))))


def test_groups_of_cells():
    assert count_groups((17, 29, 29), (8, 7, 7)) == 27
    assert count_groups((16, 29, 29), (8, 7, 7)) == 18  # 4, 8 and 4 tokens in time: cells of equal size are one group
    assert count_groups((8, 29, 29), (8, 7, 7)) == 9  # no shift along an axis that one window covers
    assert count_groups((8, 7, 7), (8, 7, 7)) == 1


def test_autocast():
    """The same within what bfloat16 rounds; outputs are float32."""
    net = video(attn_backend='cells').float()
    x = torch.randn(1, 3, 4, 40, 36)
    wanted = net(x)
    with torch.autocast('cpu', torch.bfloat16):
        outs = net(x)
    for out, right in zip(outs, wanted):
        assert out.dtype == torch.float32
        assert (out - right).abs().max() < .05 * right.abs().max()


@needs_torch_2_4('its compiler knows no dataclasses')
@pytest.mark.slow
def test_torch_compile_without_graph_breaks():
    net = video()
    compiled = torch.compile(net, backend='aot_eager', fullgraph=True)
    for shape in ((1, 3, 4, 40, 36), (1, 3, 6, 33, 48)):
        x = clip(*shape)
        for out, wanted in zip(compiled(x), net(x)):
            torch.testing.assert_close(out, wanted, atol=1e-10, rtol=0)


@pytest.mark.parametrize('x, message', [
    (torch.zeros(1, 3, 64, 64), r'must have the shape \(B, 3, t, h, w\), got \(1, 3, 64, 64\)'),
    (torch.zeros(1, 3, 0, 31, 64), r'x must be >= 1 along each of \(t, h, w\), got \(0, 31, 64\)')])
def test_other_clips_are_errors(x, message):
    with pytest.raises(ValueError, match=message):
        video()(x.double())


@pytest.mark.parametrize('options, message', [
    (dict(window_size=(8, 7, 7)), r'window_size must have one entry per stage, 2 in all, got 3: \(8, 7, 7\)'),
    (dict(window_size=[(8, 7), 7]), r'window_size\[0\] must be an integer or \(t, h, w\) in tokens, got \(8, 7\)'),
    (dict(window_size=[(2, 1, 4)] * 2), r'window_size\[0\] must be >= \(1, 2, 2\) tokens, got \(2, 1, 4\)'),
    (dict(temporal_patch_size=0), 'temporal_patch_size must be an integer from 1 to 4096 frames, got 0')])
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        VideoSwinTransformerV2(SMALL, out_indices=(1,), **options)
    with pytest.raises(TypeError, match='temporal_patch_size'):
        SwinTransformerV2(SMALL, temporal_patch_size=2)


# Inflation


def image_state(kind='log_cpb', arch=SMALL, **options):
    options = dict(dict(window_size=[(3, 4), 2], pretrained_window_sizes=[(5, 3), 2], out_indices=(0, 1),
                        position_bias=kind, drop_path_rate=0.), **options)
    return randomize(SwinTransformerV2(arch, **options).double())


@pytest.mark.parametrize('patch, times', [(1, (1, 1)), (2, (3, 3)), (4, (2, 5))])
@pytest.mark.parametrize('kind', KINDS)
def test_a_still_clip_is_its_frame(kind, patch, times):
    image = image_state(kind)
    before = dict(image.state_dict())
    state = inflate(before, temporal_patch_size=patch, temporal_window=times if len(set(times)) > 1 else times[0])
    assert state['pretrained_window_sizes'][:, 0].tolist() == list(times)
    windows = [(time, *window) for time, window in zip(times, image.window_sizes)]
    net = VideoSwinTransformerV2(SMALL, window_size=windows, pretrained_window_sizes=state['pretrained_window_sizes']
                                 .tolist(), temporal_patch_size=patch, position_bias=kind, out_indices=(0, 1),
                                 drop_path_rate=0.).double()
    net.load_state_dict(state)
    x = clip(2, 3, 45, 37)
    for frame, out in zip(image(x), net(x[:, :, None].expand(-1, -1, 3 * patch, -1, -1))):
        torch.testing.assert_close(out, frame[:, :, None].expand_as(out), atol=1e-10, rtol=0)
    assert before.keys() == image.state_dict().keys()


@pytest.mark.parametrize('name', FILES)
def test_every_layout_is_inflated(name):
    _, arch, write = FILES[name]
    image = backbone(arch)
    file = write(image.state_dict(), arch['depths'])
    found = read_backbone_state(file)
    outputs = config_of(found)['out_indices']
    net = VideoSwinTransformerV2(arch, window_size=[(2, 4, 4)] * 3, pretrained_window_sizes=[(2, 4, 4)] * 3,
                                 out_indices=outputs, drop_path_rate=0.).double()
    assert 'inflated over time' in load_backbone(net, found)
    x = clip(1, 3, 40, 36)
    for i, out in zip(outputs, net(x[:, :, None].expand(-1, -1, 4, -1, -1))):
        torch.testing.assert_close(out, image(x)[i][:, :, None].expand_as(out), atol=1e-10, rtol=0)
    state = inflate(file, temporal_window=2)
    said = found.pretrained_window_sizes
    assert state.get('pretrained_window_sizes', torch.zeros(0)).tolist() == [[2, *window] for window in said or ()]
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items() if k in state)


def test_the_column_of_time_learns():
    state = inflate(image_state().state_dict(), temporal_window=2)
    name = 'layers.0.blocks.0.attn.cpb_mlp.0.weight'
    assert not state[name][:, 0].any()
    net = video(window_size=[(2, 3, 4), (2, 2, 2)], pretrained_window_sizes=state['pretrained_window_sizes'].tolist())
    net.load_state_dict(state)
    net(clip(1, 3, 8, 40, 40))[-1].square().mean().backward()
    assert dict(net.named_parameters())[name].grad[:, 0].abs().max() > 0


def test_video_weights_say_what_they_are():
    net = video()
    found = read_backbone_state(dict(state_dict={f'backbone.{k}': v for k, v in net.state_dict().items()}))
    assert (found.axes, found.pretrained_window_sizes) == (3, tuple(BEFORE))
    assert check_complete(found)['temporal_patch_size'] == 2
    again = video()
    torch.nn.init.zeros_(again.patch_embed.proj.weight)
    load_backbone(again, found)
    assert torch.equal(again.patch_embed.proj.weight, net.patch_embed.proj.weight)
    written, _ = to_layout(found, 'mmswinv2')
    assert written.keys() == net.state_dict().keys()
    with pytest.raises(ValueError, match='must be one that timm can compute; it has no third axis, time'):
        to_layout(found, 'timm')


def test_tables_of_clips():
    """Their rows do not tell a window of three axes: the file does; one of another window is resized."""
    net = video(position_bias='parameterized', pretrained_window_sizes=None)
    assert net.state_dict()['pretrained_window_sizes'].tolist() == [list(w) for w in WINDOWS]
    found = read_backbone_state(net.state_dict())
    assert config_of(found)['window_size'] == WINDOWS
    larger = video(position_bias='parameterized', window_size=[(3, 5, 4), (3, 2, 2)], pretrained_window_sizes=WINDOWS)
    load_backbone(larger, found)
    old, new = (n.layers[0].blocks[0].attn.relative_position_bias_table.T.view(2, *(2 * size - 1 for size in window))
                for n, window in ((net, WINDOWS[0]), (larger, (3, 5, 4))))
    wanted = torch.nn.functional.interpolate(old, (9, 7), mode='bicubic')  # an image per head, a channel per time
    torch.testing.assert_close(new[:, 2], wanted[:, 1])  # the middle in time stays
    torch.testing.assert_close(new[:, 0], wanted[:, 0])  # and so does the end
    torch.testing.assert_close(new[:, 1], .6 * wanted[:, 0] + .4 * wanted[:, 1])


@pytest.mark.parametrize('options, message', [
    (dict(temporal_patch_size=0), 'temporal_patch_size must be an integer from 1 to 4096 frames, got 0'),
    (dict(temporal_window=[2, 2, 2]), r'temporal_window must be an integer or one per stage, 2 in all, got \[2, 2, 2'),
    (dict(temporal_window='8'), "temporal_window must be an integer or one per stage, 2 in all, got '8'")])
def test_bad_inflation(options, message):
    with pytest.raises(ValueError, match=message):
        inflate(image_state().state_dict(), **options)


def test_what_is_inflated_is_of_images():
    with pytest.raises(ValueError, match='state must be of a backbone on images, got patch_embed.proj.weight of shape'):
        inflate(video().state_dict())
    with pytest.raises(ValueError, match='patch_embed.proj.weight must be of patches along 3 axes, got shape'):
        video().load_state_dict(image_state().state_dict())


# Memory and counts


def test_peak_is_as_planned():
    arch = dict(embed_dims=32, depths=(2, 2), num_heads=(2, 4))
    windows = [(8, 10, 10), (8, 5, 5)]
    net = VideoSwinTransformerV2(arch, window_size=windows, out_indices=(1,), drop_path_rate=0., attn_budget_mib=4)
    shape = (16, 80, 80)
    x = torch.randn(1, 3, *shape)
    with torch.no_grad():
        net(x)
    with LiveBytes(x, *net.parameters()) as live:
        net(x)[0].square().mean().backward()
    measured = live.peak + x.nbytes + sum(p.nbytes for p in net.parameters())
    parameters, output = sum(p.numel() for p in net.parameters()), 4 * 64 * 8 * 10 * 10
    plan = plan_step(backbone_memory(Setting(net.config, device='cpu'), shape, 1),
                     Model(parameters, parameters, heads_peak=3 * output), Sharding(state_bytes=0, foreach=False))
    assert plan.peak == pytest.approx(measured, rel=.05)


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """The largest storage that an operator gives, in bytes; inside of an operator nothing is seen."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(value, torch.Tensor):
                self.size = max(self.size, value.untyped_storage().nbytes())
        return out


PAIRS = 4 * 3200**2  # bytes of those of a window of 8 x 20 x 20 tokens, for one head


@pytest.mark.parametrize('backend', ['auto', 'eager'])
def test_the_bias_is_made_within_the_budget(backend):
    """Its hidden map for 22,815 offsets would be 45 MiB. ``eager`` shows that an attention map would be seen."""
    net = VideoSwinTransformerV2(dict(embed_dims=32, depths=(1,), num_heads=(1,)), window_size=[(8, 20, 20)],
                                 out_indices=(0,), attn_budget_mib=2, attn_backend=backend, drop_path_rate=0.)
    x = torch.randn(1, 3, 16, 80, 80)
    with Largest() as largest:
        net(x)[0].sum().backward()
    assert (largest.size < 8 * MIB) == (backend == 'auto')
    assert net.layers[0].blocks[0].attn.bias_table((8, 20, 20)).numel() == 22815


def test_no_attention_map_at_once():
    """Of 4 windows and 2 heads it would be 8 times the pairs. Those of the bias are there, of one head at a time, and
    twice while their gradient is summed."""
    qkv, table = torch.randn(1, 8, 40, 40, 48), torch.randn(2, 15, 39, 39)
    weights, grid = (table, torch.full((2, 1, 1), 2.3), None), (Axis(8, 8), Axis(40, 20), Axis(40, 20))
    options = grid, 0., 2 * MIB
    with Largest() as largest:
        out, lse = cells.forward(qkv, *weights, *options)
        cells.backward(torch.ones_like(out), qkv, *weights, out, lse, *options)
    assert largest.size <= 2 * PAIRS


# arXiv:2106.13230, table 1, of T; of G by the formula, 8 tokens in time; multiply-accumulates in units of 1e12, with
# whole windows, without the MLP of the position bias
@pytest.mark.parametrize('arch, shape, windows, published, digit', [
    ('tiny', (32, 224, 224), [(8, 7, 7)] * 4, .088, .001),
    ('g', (16, 256, 256), [(8, 16, 16)] * 3 + [(8, 8, 8)], 6.1, .1),
    ('g', (16, 320, 320), [(8, 20, 20)] * 3 + [(8, 10, 10)], 10.4, .1),
    ('g', (16, 384, 384), [(8, 24, 24)] * 3 + [(8, 12, 12)], 16.5, .1)])
def test_counts(arch, shape, windows, published, digit):
    with torch.device('meta'):
        net = VideoSwinTransformerV2(arch, window_size=windows, position_bias='parameterized').eval()
        with FlopCounterMode(display=False) as counter:
            net(torch.zeros(1, 3, *shape))
    counted = counter.get_total_flops() / 2
    for stage, lengths, dim in zip(net.layers, net.map_lengths(shape), net.arch.dims):
        for block in stage.blocks:
            grid = block.attn.grid(lengths, shifted=block.shifted)
            cells = attention_macs((1, *lengths, 3 * dim), [a.window for a in grid], [a.shift for a in grid])
            counted += 2 * prod(lengths) * prod(a.window for a in grid) * dim - cells  # the published are of windows
    assert counted / 1e12 == pytest.approx(published, abs=digit / 2 * 1.01)
