"""The backbone against the slow reference, its interface, and what it refuses."""
import pytest
import torch

import reference
from helpers.backbones import PARAMETERS, SMALL, randomize
from helpers.versions import half_under_autocast, needs_torch_2_4
from mmswinv2.core import ARCHS, SwinTransformerV2

pytestmark = pytest.mark.core


def assert_equals_reference(net, x, **options):
    """Outputs, and gradients of the image and of all parameters."""
    x.requires_grad_()
    theirs = reference.backbone(dict(net.state_dict(keep_vars=True)), x, depths=net.arch.depths,
                                num_heads=net.arch.num_heads, windows=net.window_sizes,
                                pretrained=net.pretrained_window_sizes, out_indices=net.out_indices, **options)
    ours = net(x)
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(o.shape, generator=generator, dtype=o.dtype) for o in ours]
    names, parameters = zip(('x', x), *net.named_parameters())
    grads = [torch.autograd.grad(sum((o * w).sum() for o, w in zip(outs, weights, strict=True)), parameters)
             for outs in (ours, theirs)]
    for a, b in zip(ours, theirs):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    for name, a, b in zip(names, *grads):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9, msg=lambda m, name=name: f'{name}: {m}')


WITH_NORMS = dict(embed_dims=4, depths=[4, 3], num_heads=[1, 2], extra_norm_every_n_blocks=2)


@pytest.mark.parametrize('mask_padding', [True, False])
@pytest.mark.parametrize('arch, size, options', [
    (SMALL, (32, 32), {}),  # divisible
    (SMALL, (44, 36), {}),  # 11 x 9, then 6 x 5 tokens: neither divides
    (SMALL, (37, 61), dict(pretrained_window_sizes=6)),  # not even divisible into patches; extrapolated bias
    (SMALL, (36, 32), dict(window_size=[(5, 3), 4], pretrained_window_sizes=[(4, 7), 3])),  # no square
    (SMALL, (32, 68), dict(window_size=9)),  # one window along H, 17 tokens (pad 1) along W
    (SMALL, (32, 52), dict(window_size=6)),  # 13 tokens: padding 5 is wider than window less shift
    (SMALL, (32, 32), dict(window_size=20, pretrained_window_sizes=12)),  # a map smaller than the window on both axes
    (SMALL, (1, 1), {}),  # maps of one token
    (SMALL, (3, 18), dict(window_size=2, pretrained_window_sizes=4)),  # one token high
    (SMALL, (44, 36), dict(qkv_bias=False)),
    (SMALL, (40, 36), dict(window_size=[4, 6], pretrained_window_sizes=[4, 5], position_bias='linear_cpb')),
    (SMALL, (40, 36), dict(window_size=[4, 6], position_bias='parameterized')),
    (WITH_NORMS, (36, 32), {}),
    (WITH_NORMS, (37, 61), dict(window_size=[(5, 3), 4], norm_placement='pre')),  # the arrangement of Swin V1
])
def test_equals_reference(arch, size, options, mask_padding, rng):
    options = dict(dict(window_size=4, out_indices=(0, 1), drop_path_rate=0., mask_padding=mask_padding), **options)
    net = randomize(SwinTransformerV2(arch, **options).double())
    assert_equals_reference(net, torch.randn(2, 3, *size, generator=rng, dtype=torch.float64),
                            mask_padding=mask_padding, kind=options.get('position_bias', 'log_cpb'),
                            placement=options.get('norm_placement', 'res_post'))


def test_names_of_weights_follow_the_options():
    names = SwinTransformerV2(WITH_NORMS, window_size=4, out_indices=(0, 1), qkv_bias=False).state_dict()
    extra = [name for name in names if name.endswith('.norm3.weight')]
    assert extra == [f'layers.{i}.blocks.{j}.norm3.weight' for i, j in ((0, 1), (0, 3), (1, 1))]
    assert not any(name.endswith(('q_bias', 'v_bias')) for name in names)


def test_norms_before_start_at_one():
    net = SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1), norm_placement='pre')
    assert net.layers[0].downsample.norm.weight.shape == (32,)
    assert all(p.eq(1).all() for n, p in net.named_parameters() if 'norm' in n and n.endswith('weight'))


@pytest.mark.parametrize('arch', sorted(ARCHS))
def test_parameter_counts_are_the_published_ones(arch):
    with torch.device('meta'):
        net = SwinTransformerV2(arch, out_indices=(3,))
    count = sum(p.numel() for p in net.parameters())
    digits = 4 if PARAMETERS[arch] < 2e8 else 5
    assert count == pytest.approx(PARAMETERS[arch], rel=10.**-digits)


def test_every_parameter_receives_a_gradient(rng):
    net = randomize(SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1), drop_path_rate=0.))
    sum(o.square().sum() for o in net(torch.randn(2, 3, 40, 36, generator=rng))).backward()
    without = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize('with_cp', [True, [True, False]])
def test_checkpointed_equals_plain_even_after_two_forwards(with_cp, rng):
    plain = randomize(SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1), drop_path_rate=.5).double())
    checkpointed = SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1), drop_path_rate=.5, with_cp=with_cp)
    checkpointed.double().load_state_dict(plain.state_dict())
    images = [torch.randn(2, 3, *s, generator=rng, dtype=torch.float64) for s in ((40, 36), (64, 52))]
    results = []
    for net in (plain, checkpointed):
        torch.manual_seed(3)
        outs = [o for x in images for o in net(x)]
        sum(o.square().sum() for o in outs).backward()
        results.append([*outs, *(p.grad for p in net.parameters())])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('frozen', [-1, 0, 1, 2])
def test_frozen_stages_have_no_gradient_and_survive_train(frozen, rng):
    net = SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1), frozen_stages=frozen, drop_path_rate=.5)
    prefixes = ['patch_embed.', 'layers.0.', 'norm0.', 'layers.1.', 'norm1.'][:max(0, 2 * frozen + 1)]
    expected = [n for n, _ in net.named_parameters() if n.startswith(tuple(prefixes))] if prefixes else []
    for _ in range(2):
        assert [n for n, p in net.named_parameters() if not p.requires_grad] == expected
        assert [s.training for s in net.layers] == [i >= frozen for i in range(2)]
        assert net.train() is net
    outs = net(torch.randn(1, 3, 32, 32, generator=rng))
    assert outs[-1].requires_grad == (frozen < 2)


def test_norm_eval_keeps_norms_in_evaluation_mode():
    net = SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1), norm_eval=True).train()
    assert net.training and not net.norm0.training and not net.layers[0].blocks[0].norm1.training


@pytest.mark.parametrize('out_indices', [(0,), (1,), (0, 1)])
def test_out_indices(out_indices, rng):
    net = randomize(SwinTransformerV2(SMALL, window_size=4, out_indices=out_indices).eval())
    full = SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1)).eval()
    full.load_state_dict(net.state_dict(), strict=False)
    x = torch.randn(1, 3, 36, 32, generator=rng)
    for i, out in zip(out_indices, net(x)):
        torch.testing.assert_close(out, full(x)[i])


def test_starts_as_the_identity_on_the_residual_stream(rng):
    net = SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1)).eval()
    x = torch.randn(1, 8, 8, 8, generator=rng)
    torch.testing.assert_close(net.layers[0].blocks[0](x), x, rtol=0, atol=0)


@pytest.mark.parametrize('dtype, tolerance', [
    (torch.bfloat16, .05), pytest.param(torch.float16, .01, marks=half_under_autocast.marks)])
def test_autocast_is_close_to_float32(dtype, tolerance, rng):
    net = randomize(SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1)).eval(), std=.1)
    x = torch.randn(1, 3, 44, 36, generator=rng)
    with torch.autocast('cpu', dtype=dtype):
        outs = net(x)
    for half, full in zip(outs, net(x)):
        assert (half - full).norm() < tolerance * full.norm()


@pytest.mark.parametrize('dtype', [torch.bfloat16, pytest.param(
    torch.float16, marks=needs_torch_2_4('no float16 convolution on a CPU'))])
def test_half_precision_weights(dtype, rng):
    net = randomize(SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1)), std=.1).to(dtype)
    outs = net(torch.randn(1, 3, 44, 36, generator=rng).to(dtype))
    assert all(o.dtype == dtype and o.isfinite().all() for o in outs)
    sum(o.float().square().mean() for o in outs).backward()
    assert [n for n, p in net.named_parameters() if not p.grad.isfinite().all()] == []


@pytest.mark.parametrize('shape, message', [
    ((1, 3, 0, 64), r'x must be >= 1 along each of \(h, w\), got \(0, 64\)'),
    ((1, 4, 64, 64), r'x must have the shape \(B, 3, h, w\), got \(1, 4, 64, 64\)'),
    ((3, 64, 64), r'x must have the shape \(B, 3, h, w\), got \(3, 64, 64\)'),
])
def test_bad_images_are_named(shape, message):
    with pytest.raises(ValueError, match=message):
        SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1))(torch.zeros(shape))
