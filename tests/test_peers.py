"""Beside the real classes of other projects, through their state dicts: equal logits, strict loading back.

``transformers`` is a test dependency. ``timm``, ``torchvision`` and ``mmpretrain`` are run where they are installed
(torchvision has no CPU build for every torch). Sizes are those at which these projects are right: maps that windows
divide.
"""
import pytest
import torch
from torch import nn

import reference
from helpers.backbones import randomize
from mmswinv2.core import SwinTransformerV2, get_arch
from mmswinv2.core.weights import check_complete, load_backbone, read_backbone_state, to_layout

pytestmark = pytest.mark.core

CLASSES = 5
SIZES = dict(embed_dim=8, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8])
# image size, window, pre-training windows: the published patterns, the window of the last stage shrunk to its map
PUBLISHED = [(256, 8, [8, 8, 8, 8]), (256, 16, [16, 16, 16, 8]), (256, 16, [12, 12, 12, 6]), (384, 24, [12, 12, 12, 6])]
HALF = [(image // 2, window // 2, [p // 2 for p in pretrained]) for image, window, pretrained in PUBLISHED[:3]]


class Transformers(nn.Module):
    """Gives logits as the others do."""

    def __init__(self, image, window, pretrained, sizes):
        super().__init__()
        transformers = pytest.importorskip('transformers')
        self.net = transformers.Swinv2ForImageClassification(transformers.Swinv2Config(
            image_size=image, window_size=window, pretrained_window_sizes=pretrained, drop_path_rate=0.,
            num_labels=CLASSES, **sizes))

    def forward(self, x):
        return self.net(x).logits


def timm(image, window, pretrained, sizes):
    module = pytest.importorskip('timm.models.swin_transformer_v2')
    return module.SwinTransformerV2(img_size=image, window_size=window, pretrained_window_sizes=pretrained,
                                    num_classes=CLASSES, drop_path_rate=0., **sizes)


def torchvision(image, window, pretrained, sizes):
    module = pytest.importorskip('torchvision.models.swin_transformer')
    if pretrained != [window] * 4:
        pytest.skip('torchvision has one window, by which it normalises')
    return module.SwinTransformer(
        patch_size=[4, 4], window_size=[window] * 2, stochastic_depth_prob=0., num_classes=CLASSES,
        block=module.SwinTransformerBlockV2, downsample_layer=module.PatchMergingV2, **sizes)


def mmpretrain(image, window, pretrained, sizes):
    pytest.importorskip('mmpretrain')
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS

    from helpers.configs import register
    register('mmpretrain')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(dict(
            type='ImageClassifier', neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=8 * sizes['embed_dim']),
            backbone=dict(type='mmpretrain.SwinTransformerV2', arch=arch_of(sizes, norms=2), img_size=image,
                          window_size=windows_of(image, window), pretrained_window_sizes=pretrained, out_indices=(3,),
                          drop_path_rate=0.)))


PEERS = dict(transformers=Transformers, timm=timm, torchvision=torchvision, mmpretrain=mmpretrain)
SILENT = ('transformers', 'timm')  # whose state dicts do not say their windows


def arch_of(sizes, norms=0):
    return dict(embed_dims=sizes['embed_dim'], depths=sizes['depths'], num_heads=sizes['num_heads'],
                extra_norm_every_n_blocks=norms)


def windows_of(image, window):
    return [window, window, window, min(window, image // 32)]


def exact_coordinates(module):
    """Their tables of coordinates again, in float64: they keep them rounded to float32 in a float64 model."""
    for m in module.modules():
        table = getattr(m, 'relative_coords_table', None)
        if table is not None:
            h, w = ((n + 1) // 2 for n in table.shape[1:3])
            corner = 2**(3 * table[0, -1, -1].double()) - 1  # 8 (W - 1) / (P - 1)
            p, q = (1 + round(8 * (n - 1) / c) for n, c in zip((h, w), corner.tolist()))
            exact = [[[reference.relative_coordinate(i, p, 'log_cpb'), reference.relative_coordinate(j, q, 'log_cpb')]
                      for j in range(1 - w, w)] for i in range(1 - h, h)]
            m.relative_coords_table = torch.tensor(exact, dtype=torch.float64)[None]
            torch.testing.assert_close(m.relative_coords_table, table.double(), rtol=1e-6, atol=1e-6)
    return module


def check(peer, image, window, pretrained, sizes=SIZES, std=.2):
    """Their classifier is read, and written again; each gives the other's logits."""
    def build():
        return PEERS[peer](image, window, pretrained, sizes).double().eval()
    theirs = exact_coordinates(randomize(build(), std=std))
    state = getattr(theirs, 'net', theirs).state_dict()
    found = read_backbone_state(state)
    windows = windows_of(image, window)
    ours = SwinTransformerV2(arch_of(sizes, norms=2 * (peer == 'mmpretrain')), window_size=windows,
                             pretrained_window_sizes=pretrained, out_indices=(3,)).double().eval()
    load_backbone(ours, found)
    shown = [None if w is None else [list(pair) for pair in w] for w in (
        found.window_sizes, found.pretrained_window_sizes)]
    assert found.source == peer
    assert shown == ([None, None] if peer in SILENT else [[[n, n] for n in w] for w in (windows, pretrained)])
    x = torch.randn(2, 3, image, image, dtype=torch.float64)
    with torch.no_grad():
        logits, head = theirs(x), found.extras
        assert logits.std() > .1 and set(head) == {'head.weight', 'head.bias'}
        torch.testing.assert_close(ours(x)[0].mean((2, 3)) @ head['head.weight'].T + head['head.bias'], logits,
                                   rtol=1e-9, atol=1e-9 * logits.abs().max().item())

    again = build()
    out, _ = to_layout(read_backbone_state({**ours.state_dict(), **head}), peer)
    problems = getattr(again, 'net', again).load_state_dict(out, strict=peer != 'mmpretrain')
    # mmpretrain deletes coordinates and index of a file, which it makes itself: these alone are missing then
    assert not problems.unexpected_keys and {k.rsplit('.', 1)[1] for k in problems.missing_keys} <= {
        'relative_coords_table', 'relative_position_index'}
    with torch.no_grad():
        assert torch.equal(exact_coordinates(again)(x), logits)


@pytest.mark.parametrize('image, window, pretrained', HALF)
@pytest.mark.parametrize('peer', PEERS)
def test_logits(peer, image, window, pretrained):
    check(peer, image, window, pretrained)


@pytest.mark.slow
@pytest.mark.parametrize('arch', ['tiny', 'small', 'base', 'large'])
@pytest.mark.parametrize('image, window, pretrained', PUBLISHED)
def test_transformers_at_full_size(arch, image, window, pretrained):
    a = get_arch(arch)
    check('transformers', image, window, pretrained,
          dict(embed_dim=a.embed_dims, depths=list(a.depths), num_heads=list(a.num_heads)), .05)


def test_other_classes_of_transformers():
    """They hold the same weights under other prefixes, with weights of their own beside; one has a mask token."""
    transformers = pytest.importorskip('transformers')
    config = transformers.Swinv2Config(image_size=64, window_size=4, out_features=['stage1', 'stage4'],
                                       pretrained_window_sizes=[4] * 4, **SIZES)
    for cls in (transformers.Swinv2Backbone, transformers.Swinv2ForMaskedImageModeling):
        found = read_backbone_state(cls(config).state_dict())
        assert found.source == 'transformers' and check_complete(found)['arch']['depths'] == SIZES['depths']
    ours = SwinTransformerV2(arch_of(SIZES), window_size=4, pretrained_window_sizes=4, out_indices=(3,))
    token = torch.randn(1, 1, 8)
    masked = transformers.Swinv2Model(config, add_pooling_layer=False, use_mask_token=True)
    out, _ = to_layout(read_backbone_state({**ours.state_dict(), 'mask_token': token}), 'transformers')
    masked.load_state_dict(out, strict=True)
    assert torch.equal(masked.embeddings.mask_token, token)
