"""The backbone's layers as others see them: hooks fire on each, and torch's dynamic quantisation takes what it can."""
import pytest
import torch
from torch import nn

from helpers.backbones import SMALL, randomize
from mmswinv2.core import SwinTransformerV2

pytestmark = pytest.mark.core


def net(**options):
    return randomize(SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1), **options)).eval()


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


@pytest.mark.filterwarnings('ignore:torch.ao.quantization is deprecated')
def test_dynamic_quantisation(rng):
    model, x = net(), torch.randn(1, 3, 44, 36, generator=rng)
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    taken = [n for n, m in quantised.named_modules() if isinstance(m, torch.ao.nn.quantized.dynamic.Linear)]
    assert len(taken) == 4 * 3 + 1  # proj, fc1, fc2 of each block; the merging
    for a, b in zip(quantised(x), model(x)):
        assert 0 < (a - b).abs().mean() < .1
