"""The backbone's layers as others see them: hooks fire on each, and another module may take the place of each."""
import pytest
import torch
from torch import nn

from helpers.backbones import SMALL, randomize
from mmswinv2.core import SwinTransformerV2, VideoSwinTransformerV2

pytestmark = pytest.mark.core


class Wrap(nn.Module):
    """A plain wrapper, without any other attribute of what it wraps."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


class Adapter(nn.Module):
    """A low-rank adapter, as LoRA's libraries put one around each linear layer of a name."""

    def __init__(self, base_layer, rank=2):
        super().__init__()
        self.base_layer, dtype = base_layer, base_layer.weight.dtype
        self.down = nn.Parameter(torch.randn(rank, base_layer.in_features, dtype=dtype))
        self.up = nn.Parameter(torch.randn(base_layer.out_features, rank, dtype=dtype))

    def forward(self, x):
        return self.base_layer(x) + x @ self.down.mT @ self.up.mT


def put(model, name, module):
    """Puts a module into a place."""
    parent, _, last = name.rpartition('.')
    setattr(model.get_submodule(parent), last, module)


def net(cls=SwinTransformerV2, **options):
    return randomize(cls(SMALL, window_size=4, out_indices=(0, 1), **options)).eval()


@pytest.mark.parametrize('options', [{}, dict(position_bias='linear_cpb', qkv_bias=False), dict(mask_padding=False),
                                     dict(attn_backend='eager'), dict(position_bias='parameterized')])
def test_each_layer_is_called(options, rng):
    model, called = net(**options), set()
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    model(torch.randn(1, 3, 44, 36, generator=rng))
    wanted = {n for n, m in model.named_modules() if not isinstance(m, nn.ModuleList)}
    assert called == wanted


def test_a_hook_may_change_queries_and_the_bias(rng):
    model, x = net(), torch.randn(1, 3, 44, 36, generator=rng)
    before = model(x)[0]
    for name in ('qkv', 'cpb_mlp', 'cpb_mlp.2'):
        module = model.layers[0].blocks[0].attn.get_submodule(name)
        handle = module.register_forward_hook(lambda module, args, out: out * 1.5)
        assert (model(x)[0] - before).abs().max() > 1e-3
        handle.remove()
    torch.testing.assert_close(model(x)[0], before, rtol=0, atol=0)


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_the_bias_is_computed_in_float32_or_better(dtype):
    attn = net().to(dtype).layers[0].blocks[0].attn
    assert attn.bias_table((4, 4)).dtype == torch.promote_types(dtype, torch.float32)


@pytest.mark.parametrize('cls, options', [
    (SwinTransformerV2, {}), (SwinTransformerV2, dict(position_bias='linear_cpb', mask_padding=False)),
    (SwinTransformerV2, dict(position_bias='parameterized', norm_placement='pre', qkv_bias=False, mask_padding=False)),
    (VideoSwinTransformerV2, dict(temporal_patch_size=1))])
def test_each_layer_may_be_wrapped(cls, options, rng):
    """All of them: the same result. Nothing reads past the wrapper's ``forward``."""
    size = *[3] * (cls is VideoSwinTransformerV2), 24, 20
    model, x = net(cls, **options).double(), torch.randn(1, 3, *size, generator=rng, dtype=torch.float64)
    wanted, leaves = model(x), [n for n, m in model.named_modules() if not any(m.children())]
    for name in leaves:
        put(model, name, Wrap(model.get_submodule(name)))
    torch.testing.assert_close(model(x), wanted, rtol=1e-12, atol=1e-12)
    assert len(leaves) == (43 if 'norm_placement' in options else 55)
    sum(out.sum() for out in model.train()(x)).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    model.reset_parameters()


def test_who_keeps_queries_keys_and_values_keeps_what_the_layer_gave(rng):
    """A hook or another ``forward`` is called, and the bias does not change what it has kept."""
    model, x = net().double(), torch.randn(1, 3, 44, 36, generator=rng, dtype=torch.float64)
    qkv, kept, wanted = model.layers[0].blocks[0].attn.qkv, [], model(x)[0]
    qkv.register_forward_hook(lambda module, args, out: kept.append((args[0], out)))
    torch.testing.assert_close(model(x)[0], wanted, rtol=1e-12, atol=1e-12)
    qkv._forward_hooks.clear()
    qkv.forward = lambda x, plain=qkv.forward: kept.append((x, plain(x))) or kept[-1][1]
    torch.testing.assert_close(model(x)[0], wanted, rtol=1e-12, atol=1e-12)
    del qkv.forward
    qkv.register_full_backward_hook(lambda module, grads, outs: kept.append((module, None)))
    model(x)[0].sum().backward()
    (first, given), (second, again), _ = kept
    assert torch.equal(given, qkv(first)) and torch.equal(again, qkv(second))


@pytest.mark.parametrize('name', ['attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2', 'cpb_mlp.0', 'cpb_mlp.2', 'reduction'])
def test_adapters_equal_merged_weights(name, rng):
    """Adapters alone have gradients, and are added to the weights they stand beside."""
    model, x = net().double().requires_grad_(False), torch.randn(1, 3, 44, 36, generator=rng, dtype=torch.float64)
    plain = net().double()
    for place in [n for n, _ in model.named_modules() if n.endswith(name)]:
        layer = model.get_submodule(place)
        adapter = Adapter(layer)
        put(model, place, adapter)
        with torch.no_grad():
            plain.get_submodule(place).weight += adapter.up @ adapter.down
    outs = model(x)
    for a, b in zip(outs, plain(x), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)
    sum(out.square().sum() for out in outs).backward()
    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert with_gradient == {n for n, p in model.named_parameters() if n.endswith(('.up', '.down'))} != set()


@pytest.mark.filterwarnings('ignore:torch.ao.quantization is deprecated')
def test_dynamic_quantisation(rng):
    model, x = net(), torch.randn(1, 3, 44, 36, generator=rng)
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    taken = [n for n, m in quantised.named_modules() if isinstance(m, torch.ao.nn.quantized.dynamic.Linear)]
    assert len(taken) == 4 * 4 + 1  # qkv, proj, fc1, fc2 of each block; the merging
    for a, b in zip(quantised(x), model(x)):
        assert 0 < (a - b).abs().mean() < .1
