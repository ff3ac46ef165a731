"""Drop path, patch embedding and merging."""
import pytest
import torch

from helpers.backbones import randomize
from mmswinv2.core import layers
from mmswinv2.core.layers import DropPath, Mlp, PatchEmbed, PatchMerging
from mmswinv2.core.swin_transformer_v2 import SwinTransformerV2

pytestmark = pytest.mark.core


def test_drop_path_scales_what_it_keeps():
    torch.manual_seed(0)
    y = DropPath(.25).train()(torch.ones(4000, 3))
    assert y.unique().tolist() == pytest.approx([0., 4 / 3])
    assert torch.equal(y[:, 0], y[:, 1])
    assert y.mean().item() == pytest.approx(1., abs=.05)
    assert torch.equal(DropPath(.25).eval()(torch.ones(5, 3)), torch.ones(5, 3))


@pytest.mark.parametrize('placement', ['res_post', 'pre'])
def test_a_dropped_image_is_exactly_the_shortcut(placement, rng):
    net = SwinTransformerV2(dict(embed_dims=8, depths=[2], num_heads=[2]), window_size=4, out_indices=(0,),
                            drop_path_rate=.9, norm_placement=placement)
    block = net.layers[0].blocks[1].train()
    with torch.no_grad():
        for p in block.parameters():
            p.fill_(.5)  # the norms have a bias, which must not be added either
    x = torch.randn(64, 4, 4, 8, generator=rng)
    torch.manual_seed(0)
    same = (block(x) == x).flatten(1).all(1)
    assert 40 < same.sum() < 64


def test_the_expected_block_is_the_block_without_drop_path(rng):
    """Of the branch of attention, whose norm comes before the drop: kept ones are scaled, the mean is unbiased."""
    arch = dict(embed_dims=8, depths=[2], num_heads=[2])
    net = randomize(SwinTransformerV2(arch, window_size=4, out_indices=(0,), drop_path_rate=.5))
    block = net.layers[0].blocks[1].train()
    with torch.no_grad():
        block.norm2.weight.zero_()  # the branch of the MLP gives its bias alone, dropped or not
        block.norm2.bias.zero_()
        x = torch.randn(1, 4, 4, 8, generator=rng)
        branch = block.eval()(x) - x
        out = block.train()(x.expand(4000, -1, -1, -1)) - x
    kept = (out != 0).flatten(1).any(1)
    assert kept.float().mean().item() == pytest.approx(.5, abs=.03)
    torch.testing.assert_close(out[kept], (2 * branch).expand(int(kept.sum()), -1, -1, -1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.mean(0, keepdim=True), branch, rtol=0, atol=.1)


def test_drop_path_rates_grow_linearly():
    net = SwinTransformerV2('tiny', drop_path_rate=.2)
    rates = [b.drop_path.rate for s in net.layers for b in s.blocks]
    assert rates == pytest.approx([.2 * i / 11 for i in range(12)])


def test_patch_embed_pads_at_the_bottom_and_right(rng):
    embed = PatchEmbed(3, 8).double()
    x = torch.randn(1, 3, 33, 38, generator=rng, dtype=torch.float64)
    padded = torch.zeros(1, 3, 36, 40, dtype=torch.float64)
    padded[:, :, :33, :38] = x
    torch.testing.assert_close(embed(x), embed(padded), rtol=0, atol=0)


def test_patch_merging_order_and_padding(rng):
    merge = PatchMerging(4).double()
    x = torch.randn(2, 5, 7, 4, generator=rng, dtype=torch.float64)
    padded = torch.zeros(2, 6, 8, 4, dtype=torch.float64)
    padded[:, :5, :7] = x
    four = torch.cat([padded[:, 0::2, 0::2], padded[:, 1::2, 0::2], padded[:, 0::2, 1::2], padded[:, 1::2, 1::2]], -1)
    torch.testing.assert_close(merge(x), merge.norm(merge.reduction(four)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('norm_first', [False, True])
def test_merging_of_a_large_map_keeps_no_copy_of_it(monkeypatch, norm_first, rng):
    merge = PatchMerging(4, norm_first=norm_first).double()
    x = torch.randn(2, 5, 7, 4, generator=rng, dtype=torch.float64, requires_grad=True)

    def kept_and_gradients():
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
            out = merge(x)
        copies = [shape for shape in kept if shape[-1] == 16 and shape[0] != 8]  # beside the weight
        return copies, torch.autograd.grad(out.square().sum(), [x, merge.reduction.weight])
    kept, grads = kept_and_gradients()
    assert kept
    monkeypatch.setattr(layers, 'CHUNK_BYTES_CPU', 100)
    kept, again = kept_and_gradients()
    assert not kept and all(map(torch.equal, grads, again))


@pytest.mark.parametrize('drop_rate', [0., .3])
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_large_hidden_maps_are_computed_again(dtype, drop_rate, monkeypatch, rng):
    """In chunks: the same result, with and without gradients, through the layers as modules; no hidden map is kept."""
    mlp = Mlp(8, 32, drop_rate=drop_rate).to(torch.float64 if dtype == torch.float64 else torch.float32)
    x = torch.randn(2, 5, 7, 8, generator=rng, dtype=mlp.fc1.weight.dtype, requires_grad=True)
    rows, results = [], []
    mlp.fc1.register_forward_hook(lambda module, args, out: rows.append(len(args[0].flatten(0, -2))))
    for kept in (1e9, 1.5):
        monkeypatch.setattr(layers, 'CHUNK_BYTES_CPU', 9 * 32 * torch.finfo(dtype).bits // 8)
        monkeypatch.setattr(layers, 'KEPT_CHUNKS', kept)
        saved = []
        torch.manual_seed(0)
        with torch.autocast('cpu', torch.bfloat16, enabled=dtype == torch.bfloat16), \
                torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
            out = mlp(x)
            with torch.no_grad():
                undifferentiated = mlp(x)
        results.append([out, undifferentiated,
                        *torch.autograd.grad(out.float().square().sum(), [x, *mlp.parameters()])])
        assert any(shape[-1] == 32 and shape.numel() == 70 * 32 for shape in saved) == (kept == 1e9)
    assert sorted(rows) == sorted(2 * [70] + 3 * ([9] * 7 + [7]))
    if not drop_rate:  # chunks draw others
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9 if dtype == torch.float64 else .02, atol=1e-9 if
                                       dtype == torch.float64 else .05)
