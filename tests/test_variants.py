"""Published architectures at published windows and beyond, against the slow reference; float64 and float32."""
import pytest
import torch

import reference
from helpers.backbones import randomize
from mmswinv2.core import SwinTransformerV2

pytestmark = pytest.mark.core

# window of stages 1 to 3 and that of pre-training; the last stage has half of both, but for window 8, as published
WINDOWS = [(8, 8), (16, 16), (16, 12), (24, 12), (32, 12), (40, 12), (48, 12), (56, 12)]


def image_size(window):
    """Up to 24 tokens every stage has a ragged row of windows, and a map narrower than one in later stages; beyond,
    the first stage has four windows and a remainder of 5 x 3 tokens, and later maps are smaller than a window."""
    return (16 * window + 20, 8 * window + 12) if window <= 24 else (4 * window + 18, 4 * window + 10)


def check(arch, window, pretrained, tolerance64=1e-10, tolerance32=1e-5):
    windows, pretrained = ([w, w, w, w // 2 if w > 8 else w] for w in (window, pretrained))
    net = SwinTransformerV2(arch, window_size=windows, pretrained_window_sizes=pretrained).eval()
    randomize(net, std=.05)
    x = torch.randn(1, 3, *image_size(window), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        single = net(x)
        net = net.double()
        ours = net(x.double())
        theirs = reference.backbone(net.state_dict(), x.double(), depths=net.arch.depths, num_heads=net.arch.num_heads,
                                    windows=net.window_sizes, pretrained=net.pretrained_window_sizes)
    for a, b, c in zip(ours, theirs, single):
        size = b.abs().max().item()
        assert size > 1 and a.shape == b.shape == c.shape
        error64, error32 = ((t.double() - b).abs().max().item() / size for t in (a, c))
        print(f'{arch} window {window}: {tuple(b.shape)} float64 {error64:.1e} float32 {error32:.1e}')
        assert error64 <= tolerance64 and error32 <= tolerance32


@pytest.mark.parametrize('window, pretrained', WINDOWS[:3])
def test_tiny(window, pretrained):
    check('tiny', window, pretrained)


@pytest.mark.slow
@pytest.mark.parametrize('window, pretrained', WINDOWS)
@pytest.mark.parametrize('arch', ['tiny', 'small', 'base', 'large'])
def test_every_variant_at_every_window(arch, window, pretrained):
    check(arch, window, pretrained)
