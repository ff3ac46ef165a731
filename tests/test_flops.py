"""Counts of operations: against the published ones, torch's counter against MMEngine's."""
import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from torch.utils.flop_counter import FlopCounterMode

import mmswinv2.engine.setup
from mmswinv2.core import AttentionConfig, SwinTransformerV2, WindowAttention, get_arch
from mmswinv2.core.flops import attention_macs
from mmswinv2.models import GlobalAttention

pytestmark = pytest.mark.mmengine


def count(function, *args):
    with FlopCounterMode(display=False) as counter:
        function(*args)
    return counter.get_total_flops()


# microsoft/Swin-Transformer, README: multiply-accumulates in units of 1e9, with whole windows, without the MLP of the
# position bias
@pytest.mark.parametrize('arch, size, window, published', [
    ('tiny', 256, 8, 5.9), ('tiny', 256, 16, 6.6), ('small', 256, 8, 11.5), ('base', 384, 24, 54.7),
    ('large', 256, 16, 47.5)])
def test_published_counts(arch, size, window, published):
    with torch.device('meta'):
        x = torch.zeros(1, 3, size, size)
        eager, cells = (
            count(SwinTransformerV2(arch, window_size=window, attn_backend=backend,
                                    position_bias='parameterized').eval(), x) / 2e9 for backend in ('eager', 'cells'))
    assert eager == pytest.approx(cells, rel=1e-12)
    # the published figures count whole windows; cells at the borders are smaller
    depths, dims = get_arch(arch).depths, get_arch(arch).dims
    for depth, dim, side in zip(depths, dims, (size // 4, size // 8, size // 16, size // 32)):
        cut = min(window, side)
        tokens = side * side
        shift = cut // 2 if side > cut else 0
        whole, ours = 2 * tokens * cut**2 * dim, attention_macs((1, side, side, 3 * dim), (cut, cut), (shift, shift))
        cells += depth // 2 * (whole - ours) / 1e9
    assert cells == pytest.approx(published, abs=.06)


def test_g_at_1536_px_is_counted_without_its_memory():
    with torch.device('meta'):
        net = SwinTransformerV2('g', window_size=[32, 32, 32, 16], pretrained_window_sizes=[12, 12, 12, 6]).eval()
        counted = count(net, torch.zeros(1, 3, 1536, 1536)) / 2e12
    assert 24 < counted < 26.1


@pytest.mark.parametrize('shifted', [False, True])
def test_cells_against_the_products_that_they_take(shifted, rng):
    slow, fast = (WindowAttention(8, 2, window_size=(4, 6), pretrained_window=(4, 6),
                                  config=AttentionConfig(attn_backend=b)) for b in ('eager', 'cells'))
    x = torch.randn(2, 9, 13, 8, generator=rng, requires_grad=True)
    shift = (2, 3) if shifted else (0, 0)
    # tokens along each axis, cell by cell
    sizes = ([2, 4, 3], [3, 6, 4]) if shifted else ([4, 4, 1], [6, 6, 1])
    pairs = sum(n * n for n in sizes[0]) * sum(n * n for n in sizes[1])
    macs = attention_macs((2, 9, 13, 24), (4, 6), shift)
    assert macs == 2 * 2 * pairs * 8
    assert count(lambda: slow(x, shifted=shifted)) == count(lambda: fast(x, shifted=shifted))
    training = count(lambda: fast(x, shifted=shifted).sum().backward())
    plain = count(lambda: slow(x, shifted=shifted).sum().backward())
    assert training - plain == 2 * .5 * macs  # logits again


def test_mmengine_counts_attention(rng):
    net = mmswinv2.models.SwinTransformerV2('tiny', window_size=8).eval()
    found = get_model_complexity_info(net, (3, 128, 128), show_table=False, show_arch=False)
    with torch.no_grad():
        wanted = count(net, torch.randn(1, 3, 128, 128, generator=rng)) / 2
    assert found['flops'] == pytest.approx(wanted, rel=.02)  # MMEngine counts norms, too
    assert found['flops'] > wanted


def test_mmengine_counts_global_attention():
    net = GlobalAttention(16, num_heads=2).eval()

    def flops(side):
        x = (torch.zeros(1, 16, side, side),)
        return get_model_complexity_info(net, inputs=(x,), show_table=False, show_arch=False)['flops']
    assert flops(16) - 4 * flops(8) == 2 * 16 * (256**2 - 4 * 64**2)
