"""The layer of global attention: against the formula, maps that pass, checkpointing, errors."""
import pytest
import torch
from mmengine.registry import MODELS

from helpers.backbones import randomize
from helpers.versions import half_under_autocast
from mmswinv2.models import GlobalAttention

pytestmark = pytest.mark.mmengine


def reference(neck, x):
    """Token by token, with whole attention maps."""
    b, c, h, w = x.shape
    y = x.permute(0, 2, 3, 1).reshape(b, h * w, c)
    q, k, v = neck.qkv(neck.norm1(y)).chunk(3, -1)
    heads = []
    for i in range(neck.num_heads):
        at = slice(i * c // neck.num_heads, (i + 1) * c // neck.num_heads)
        weights = (q[..., at] @ k[..., at].transpose(1, 2) / (c // neck.num_heads)**.5).softmax(-1)
        heads.append(weights @ v[..., at])
    y = y + neck.proj(torch.cat(heads, -1))
    y = y + neck.mlp.fc2(torch.nn.functional.gelu(neck.mlp.fc1(neck.norm2(y))))
    return neck.norm3(y).reshape(b, h, w, c).permute(0, 3, 1, 2)


@pytest.fixture
def neck():
    return randomize(GlobalAttention(12, 3).double()).eval()


def test_equals_the_formula_and_passes_other_maps(neck, rng):
    maps = (torch.randn(2, 4, 9, 7, generator=rng), torch.randn(2, 12, 5, 3, generator=rng, dtype=torch.float64))
    out = neck(maps)
    assert out[0] is maps[0] and out[1].shape == maps[1].shape
    torch.testing.assert_close(out[1], reference(neck, maps[1]), rtol=1e-10, atol=1e-10)


def test_checkpointed_equals_plain(neck, rng):
    x = torch.randn(2, 12, 4, 4, generator=rng, dtype=torch.float64)
    grads = []
    for with_cp in (False, True):
        neck.with_cp = with_cp
        leaf = x.clone().requires_grad_()
        torch.manual_seed(0)
        neck.train()((leaf,))[0].square().sum().backward()
        grads.append([leaf.grad, *(p.grad.clone() for p in neck.parameters())])
        neck.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(*grads))


def test_found_by_prefix():
    neck = MODELS.build([dict(type='mmswinv2.GlobalAttention', dim=8, num_heads=2)])
    assert isinstance(neck[0], GlobalAttention)


@pytest.mark.parametrize('heads', [5, 24])
def test_heads_must_divide_channels(heads):
    with pytest.raises(ValueError, match=rf'num_heads must divide dim \(12\), got {heads}'):
        GlobalAttention(12, heads)


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('dtype', ['bfloat16', half_under_autocast])
def test_autocast_of_its_own(dtype, with_cp, rng):
    """Products are in 16 bit, in the second pass of checkpointing too; the map that comes out is float32."""
    dtype = str(dtype).removeprefix('torch.')
    seen, results = [], []
    for name in (None, dtype):
        net = randomize(GlobalAttention(12, 3, drop_path_rate=0., with_cp=with_cp, autocast_dtype=name))
        net.qkv.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
        x = torch.randn(2, 12, 5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
        out, = net((x,))
        out.square().mean().backward()
        assert out.dtype == x.grad.dtype == torch.float32
        results.append([out, x.grad, *(p.grad for p in net.parameters())])
    runs = 1 + with_cp
    assert seen == [torch.float32] * runs + [getattr(torch, dtype)] * runs
    for a, b in zip(*results):
        assert 0 < (a - b).norm() <= .05 * a.norm() + 1e-4


def test_its_dtype_is_checked_and_the_meta_device_has_no_autocast():
    with pytest.raises(ValueError, match="autocast_dtype must be None, bfloat16 or float16, got 'fp8'"):
        GlobalAttention(12, 3, autocast_dtype='fp8')
    with torch.device('meta'):
        out, = GlobalAttention(12, 3, autocast_dtype='bfloat16')((torch.empty(1, 12, 2, 2),))
    assert out.shape == (1, 12, 2, 2)


@pytest.mark.parametrize('options, message', [
    (dict(mlp_ratio=.01), 'mlp_ratio must give >= 1 hidden channels, got 0.01 for 8 channels'),
    (dict(mlp_ratio=float('nan')), 'mlp_ratio must be a finite number > 0, got nan'),
    (dict(with_cp='no'), "with_cp must be a bool, got 'no'"),
    (dict(num_heads='2'), "num_heads must be an integer >= 1, got '2'"),
    (dict(num_heads=0), 'num_heads must be an integer >= 1, got 0'),
])
def test_the_neck_checks_as_the_backbone_does(options, message):
    with pytest.raises(ValueError, match=message):
        GlobalAttention(8, **{**dict(num_heads=2), **options})
