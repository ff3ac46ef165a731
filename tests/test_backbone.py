"""The backbone against the slow reference, its interface, and what it refuses."""
import pytest
import torch

import reference
from helpers.backbones import PARAMETERS, SMALL, randomize
from helpers.versions import half_under_autocast, needs_torch_2_4
from mmswinv2.core import ARCHS, SwinTransformerV2

pytestmark = pytest.mark.core


def reference_of(net, x, **options):
    state = {k: v for k, v in net.state_dict(keep_vars=True).items()}
    return reference.backbone(state, x, depths=net.arch.depths, num_heads=net.arch.num_heads,
                              windows=net.window_sizes, pretrained=net.pretrained_window_sizes,
                              out_indices=net.out_indices, **options)


def assert_equals_reference(net, x, **options):
    """Outputs, and gradients of all parameters."""
    ours, theirs = net(x), reference_of(net, x, **options)
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(o.shape, generator=generator, dtype=o.dtype) for o in ours]
    names, parameters = zip(*net.named_parameters())
    grads = [torch.autograd.grad(sum((o * w).sum() for o, w in zip(outs, weights, strict=True)), parameters)
             for outs in (ours, theirs)]
    for a, b in zip(ours, theirs):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    for name, a, b in zip(names, *grads):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9, msg=lambda m, name=name: f'{name}: {m}')


@pytest.mark.parametrize('mask_padding', [True, False])
@pytest.mark.parametrize('size, window, pretrained', [
    ((32, 32), 4, None),        # divisible
    ((44, 36), 4, None),        # 11 x 9, then 6 x 5 tokens: neither divides
    ((37, 61), 4, 6),           # not even divisible into patches; extrapolated bias
    ((36, 32), (5, 3), (4, 7)),  # a window that is not square
    ((32, 68), 9, None),        # one window along H, 17 tokens (pad 1) along W
    ((32, 52), 6, None),        # 13 tokens: padding 5 is wider than window less shift
    ((32, 32), 20, 12),         # the map is smaller than the window on both axes
    ((1, 1), 4, None),          # maps of one token
    ((13, 64), (5, 3), (4, 7)),  # a picture of 300 x 60 px scaled to a width of 64
    ((3, 18), 2, 4),            # one token high
])
def test_equals_reference(size, window, pretrained, mask_padding, rng):
    windows = [window, window] if isinstance(window, tuple) else window
    pretrained = [pretrained, pretrained] if isinstance(pretrained, tuple) else pretrained
    net = SwinTransformerV2(SMALL, window_size=windows, pretrained_window_sizes=pretrained, out_indices=(0, 1),
                            mask_padding=mask_padding, drop_path_rate=0.).double()
    randomize(net)
    x = torch.randn(2, 3, *size, generator=rng, dtype=torch.float64)
    assert_equals_reference(net, x, mask_padding=mask_padding)


@pytest.mark.parametrize('kind', ['log_cpb', 'linear_cpb', 'parameterized'])
def test_position_bias_equals_reference(kind, rng):
    net = SwinTransformerV2(SMALL, window_size=[4, 6], pretrained_window_sizes=[4, 5], out_indices=(0, 1),
                            position_bias=kind).double().eval()
    randomize(net)
    x = torch.randn(1, 3, 40, 36, generator=rng, dtype=torch.float64)  # 10 x 9, then 5 x 5 (smaller than 6) tokens
    for a, b in zip(net(x), reference_of(net, x, kind=kind)):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('mask_padding', [True, False])
def test_without_biases_of_queries_and_values_equals_reference(mask_padding, rng):
    net = SwinTransformerV2(SMALL, window_size=[(5, 3), 4], pretrained_window_sizes=4, out_indices=(0, 1),
                            qkv_bias=False, mask_padding=mask_padding, drop_path_rate=0.).double()
    assert not any(name.endswith(('q_bias', 'v_bias')) for name in net.state_dict())
    assert_equals_reference(randomize(net), torch.randn(2, 3, 44, 36, generator=rng, dtype=torch.float64),
                            mask_padding=mask_padding)


@pytest.mark.parametrize('size, window', [((44, 36), 4), ((37, 61), (5, 3))])
def test_norms_before_equal_reference(size, window, rng):
    """``norm_placement='pre'``: the arrangement of Swin V1, with the extra norm and patch merging."""
    arch = dict(SMALL, depths=[2, 3], extra_norm_every_n_blocks=3)
    net = SwinTransformerV2(arch, window_size=[window, window], out_indices=(0, 1), norm_placement='pre',
                            drop_path_rate=0.).double()
    assert net.layers[0].downsample.norm.weight.shape == (32,)
    randomize(net)
    x = torch.randn(2, 3, *size, generator=rng, dtype=torch.float64)
    assert_equals_reference(net, x, placement='pre')


def test_norms_before_start_at_one():
    net = SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1), norm_placement='pre')
    assert all(p.eq(1).all() for n, p in net.named_parameters() if 'norm' in n and n.endswith('weight'))


@pytest.mark.parametrize('placement', ['res_post', 'pre'])
def test_gradcheck_of_a_block(placement, rng):
    arch = dict(embed_dims=4, depths=[2], num_heads=[2], extra_norm_every_n_blocks=2)
    net = randomize(SwinTransformerV2(arch, window_size=[(3, 2)], pretrained_window_sizes=[(4, 3)], out_indices=(0,),
                                      norm_placement=placement, drop_path_rate=0.).double())
    block = net.layers[0].blocks[1]  # shifted
    names, parameters = zip(*((n, p.detach().clone().requires_grad_()) for n, p in block.named_parameters()
                              if 'cpb_mlp' not in n))
    x = torch.randn(1, 5, 3, 4, generator=rng, dtype=torch.float64, requires_grad=True)

    def f(x, *values):
        return torch.func.functional_call(block, dict(zip(names, values)), (x,))
    assert torch.autograd.gradcheck(f, (x, *parameters), fast_mode=True)


def test_extra_norm_equals_reference(rng):
    arch = dict(embed_dims=4, depths=[5, 3], num_heads=[1, 2], extra_norm_every_n_blocks=2)
    net = randomize(SwinTransformerV2(arch, window_size=4, out_indices=(1,)).double().eval())
    extra = [k for k in net.state_dict() if k.endswith('.norm3.weight')]
    assert extra == [f'layers.{i}.blocks.{j}.norm3.weight' for i, j in ((0, 1), (0, 3), (1, 1))]
    x = torch.randn(1, 3, 36, 32, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(net(x)[0], reference_of(net, x)[0], rtol=1e-10, atol=1e-10)


def test_default_arch_equals_reference(rng):
    net = SwinTransformerV2('tiny', window_size=4, out_indices=(0, 1, 2, 3)).double().eval()
    randomize(net, std=.05)
    x = torch.randn(1, 3, 40, 48, generator=rng, dtype=torch.float64)
    for a, b in zip(net(x), reference_of(net, x)):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('size', [(32, 32), (33, 95), (61, 40)])
def test_shapes_are_ceil_of_size_over_stride(size):
    net = SwinTransformerV2('tiny', window_size=8).eval()
    with torch.no_grad():
        outs = net(torch.zeros(1, 3, *size))
    expected = [(1, 96 * 2**i, -(-size[0] // s), -(-size[1] // s)) for i, s in enumerate((4, 8, 16, 32))]
    assert [tuple(o.shape) for o in outs] == expected


def test_block_takes_and_returns_a_map(rng):
    net = SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1)).double().eval()
    randomize(net)
    x = torch.randn(1, 7, 9, 8, generator=rng, dtype=torch.float64)
    y = reference.block(net.state_dict(), 'layers.0.blocks.1.', x, 2, (4, 4), (4, 4), True)
    torch.testing.assert_close(net.layers[0].blocks[1](x), y, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('arch', sorted(ARCHS))
def test_parameter_counts_are_the_published_ones(arch):
    with torch.device('meta'):
        net = SwinTransformerV2(arch, out_indices=(3,))
    count = sum(p.numel() for p in net.parameters())
    digits = 4 if PARAMETERS[arch] < 2e8 else 5
    assert count == pytest.approx(PARAMETERS[arch], rel=10.**-digits)


def test_result_does_not_depend_on_images_beside(rng):
    net = randomize(SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1)).double().eval())
    x = torch.randn(3, 3, 40, 52, generator=rng, dtype=torch.float64)
    for whole, alone in zip(net(x), net(x[1:2])):
        torch.testing.assert_close(whole[1:2], alone, rtol=1e-12, atol=1e-12)


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


def test_checkpointing_keeps_fewer_activations(rng):
    def kept(with_cp):
        net = SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1), with_cp=with_cp)
        size = 0

        def pack(t):
            nonlocal size
            size += t.numel()
            return t
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            net(torch.randn(1, 3, 64, 64, generator=rng))
        return size
    assert kept(True) < kept(False) / 3


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


@pytest.mark.parametrize('mask_padding', [True, False])
@pytest.mark.parametrize('dtype', [torch.bfloat16, half_under_autocast])
def test_autocast_is_finite_with_padded_windows(dtype, mask_padding, rng):
    """Padded keys are exactly zero: dividing them by an eps of 1e-12 makes gradients NaN in half precision."""
    net = randomize(SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1), mask_padding=mask_padding), std=.1)
    with torch.no_grad():
        for stage in net.layers:
            for blk in stage.blocks:
                blk.attn.logit_scale.fill_(6.)  # beyond the clamp at log 100
    x = torch.randn(1, 3, 44, 36, generator=rng)
    with torch.autocast('cpu', dtype=dtype):
        outs = net(x)
    assert all(o.dtype == torch.float32 and o.isfinite().all() for o in outs)
    sum(o.square().mean() for o in outs).backward()
    assert [n for n, p in net.named_parameters() if not p.grad.isfinite().all()] == []


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


@pytest.mark.parametrize('arguments, message', [
    (dict(arch='massive'), r"arch must be one of tiny, .*got 'massive'"),
    (dict(arch=3), 'arch must be a name or a dict, got 3'),
    (dict(arch=dict(embed_dims=8, depths=[2])), r"missing \['num_heads'\], unknown \[\]"),
    (dict(arch=dict(embed_dims=8, depths=[2], num_heads=[2], window=3)), r"unknown \['window'\]"),
    (dict(arch=dict(embed_dims=8, depths=[2, 2], num_heads=[2])), 'arch.num_heads must have one entry per stage'),
    (dict(arch=dict(embed_dims=8, depths=[2] * 5, num_heads=[2] * 5)), 'arch.depths must be one to four integers'),
    (dict(arch=dict(embed_dims=8, depths=[2], num_heads=[3])), 'arch.num_heads must divide .*8.*got 3'),
    (dict(window_size=1), 'window_size must be >= 2 tokens, got 1'),
    (dict(window_size=2**40), 'window_size must be <= 4096 tokens, got 1099511627776'),
    (dict(pretrained_window_sizes=[8, 8, (8, 4097), 8]), r'sizes\[2\] must be <= 4096 tokens, got \(8, 4097\)'),
    (dict(window_size=[8, 8, 8, (8, 1)]), r'window_size\[3\] must be >= 2 tokens, got \(8, 1\)'),
    (dict(window_size=[8, 8, 8]), 'window_size must have one entry per stage, 4 in all, got 3'),
    (dict(window_size=8.), 'window_size must be an integer or a list'),
    (dict(pretrained_window_sizes=[8, 8]), 'pretrained_window_sizes must have one entry per stage, 4 in all, got 2'),
    (dict(pretrained_window_sizes=[8, 8, 8, 0]), r'pretrained_window_sizes\[3\] must be >= 2 tokens, got 0'),
    (dict(out_indices=(-1, 2)), r'out_indices must be increasing .* 0 to 3, got \(-1, 2\)'),
    (dict(out_indices=(2, 1)), r'out_indices must be increasing .*got \(2, 1\)'),
    (dict(out_indices=(1, 1)), r'out_indices must be increasing .*got \(1, 1\)'),
    (dict(out_indices=(1, 4)), r'out_indices must be increasing .*got \(1, 4\)'),
    (dict(out_indices=()), r'out_indices must be increasing .*got \(\)'),
    (dict(attn_backend='magic'), "attn_backend must be one of auto, eager, cells, torch, triton, got 'magic'"),
    (dict(attn_budget_mib=0), 'attn_budget_mib must be an integer from 1 to 1099511627776 MiB or None, got 0'),
    (dict(attn_budget_mib=1.5), 'attn_budget_mib must be an integer from 1 to 1099511627776 MiB or None, got 1.5'),
    (dict(window_fit='best'), "window_fit must be one of exact, balanced, got 'best'"),
    (dict(norm_placement='post'), "norm_placement must be one of res_post, pre, got 'post'"),
    (dict(position_bias='none'), "position_bias must be one of log_cpb.*got 'none'"),
    (dict(drop_path_rate=1.), r'drop_path_rate must be a probability in \[0, 1\), got 1.0'),
    (dict(drop_rate=-.1), r'drop_rate must be a probability in \[0, 1\), got -0.1'),
    (dict(attn_drop_rate='a'), r"attn_drop_rate must be a probability in \[0, 1\), got 'a'"),
    (dict(with_cp=[True]), 'with_cp must have one entry per stage, 4 in all, got 1'),
    (dict(with_cp='yes'), "with_cp must be a bool or a list of bools, one per stage, got 'yes'"),
    (dict(frozen_stages=5), 'frozen_stages must be an integer from -1 to 4, got 5'),
    (dict(in_channels=0), 'in_channels must be an integer >= 1, got 0'),
    (dict(mlp_ratio=0), 'mlp_ratio must be a finite number > 0, got 0'),
])
def test_bad_arguments_are_named(arguments, message):
    with torch.device('meta'), pytest.raises(ValueError, match=message):
        SwinTransformerV2(**arguments)


def test_typo_is_a_type_error():
    with pytest.raises(TypeError, match='windw_size'):
        SwinTransformerV2(windw_size=8)


@pytest.mark.parametrize('shape, message', [
    ((1, 3, 0, 64), r'x must be >= 1 along each of \(h, w\), got \(0, 64\)'),
    ((1, 4, 64, 64), r'x must have the shape \(B, 3, h, w\), got \(1, 4, 64, 64\)'),
    ((3, 64, 64), r'x must have the shape \(B, 3, h, w\), got \(3, 64, 64\)'),
])
def test_bad_images_are_named(shape, message):
    with pytest.raises(ValueError, match=message):
        SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1))(torch.zeros(shape))
