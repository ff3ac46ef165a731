"""Whole classifiers of other projects, their own classes, in mmpretrain's ImageClassifier with our backbone: their
logits, at the window that they were made with and at another. The files of ``test_classification.py`` are by hand.
"""
from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import DefaultScope

from helpers.backbones import randomize
from helpers.configs import register
from mmswinv2.engine import ConvertCheckpointHook
from test_peers import SIZES, exact_coordinates

pytestmark = pytest.mark.mmpretrain

CLASSES, IMAGE = 5, 256
ARCH = dict(embed_dims=SIZES['embed_dim'], depths=SIZES['depths'], num_heads=SIZES['num_heads'],
            extra_norm_every_n_blocks=0)
WINDOWS = {8: [8] * 4, 16: [16, 16, 16, 8]}  # the last map has 8 tokens along an axis


@pytest.fixture(scope='module', autouse=True)
def mmpretrain():
    register('mmpretrain')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def classifier(backbone):
    from mmpretrain.registry import MODELS
    return MODELS.build(dict(
        type='ImageClassifier', neck=dict(type='GlobalAveragePooling'), backbone=backbone,
        head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=64))).double().eval()


def transformers(window):
    module = pytest.importorskip('transformers')
    config = module.Swinv2Config(image_size=IMAGE, window_size=window, pretrained_window_sizes=[8] * 4,
                                 num_labels=CLASSES, drop_path_rate=0., **SIZES)
    return module.Swinv2ForImageClassification(config).double().eval(), lambda net, x: net(x).logits


def timm(window):
    module = pytest.importorskip('timm.models.swin_transformer_v2')
    return module.SwinTransformerV2(
        img_size=IMAGE, window_size=window, pretrained_window_sizes=[8] * 4, num_classes=CLASSES, drop_path_rate=0.,
        **SIZES).double().eval(), lambda net, x: net(x)


def torchvision(window):
    module = pytest.importorskip('torchvision.models.swin_transformer')
    if window != 8:
        pytest.skip('torchvision normalises by the window that it has')
    return module.SwinTransformer(
        patch_size=[4, 4], window_size=[8, 8], stochastic_depth_prob=0., num_classes=CLASSES,
        block=module.SwinTransformerBlockV2, downsample_layer=module.PatchMergingV2, **SIZES).double().eval(), (
            lambda net, x: net(x))


def theirs_of_mmpretrain(window):
    return classifier(dict(
        type='mmpretrain.SwinTransformerV2', arch=ARCH, img_size=IMAGE, window_size=WINDOWS[window],
        pretrained_window_sizes=[8] * 4, out_indices=(3,), drop_path_rate=0.)), lambda net, x: net(x)


def weights(state):
    """Without what is made of sizes."""
    return {k: v for k, v in state.items() if not k.endswith(('relative_coords_table', 'relative_position_index',
                                                              'attn_mask'))}


@pytest.mark.parametrize('window', WINDOWS)
@pytest.mark.parametrize('peer', [transformers, timm, torchvision, theirs_of_mmpretrain])
def test_its_logits(peer, window):
    trained, _ = peer(8)
    randomize(trained, std=.2)
    with torch.no_grad():
        for name, p in trained.named_parameters():  # some have other names of norms
            if 'layernorm' in name and name.endswith('weight'):
                p.add_(1)
    theirs, forward = peer(window)
    theirs.load_state_dict(weights(trained.state_dict()), strict=False)
    exact_coordinates(theirs, unsaid=8)
    ours = classifier(dict(type='mmswinv2.SwinTransformerV2', arch=ARCH, window_size=WINDOWS[window],
                           pretrained_window_sizes=8, out_indices=(3,), drop_path_rate=0.))
    checkpoint = dict(exact_coordinates(trained, unsaid=8).state_dict())
    ConvertCheckpointHook().after_load_checkpoint(SimpleNamespace(model=ours), checkpoint)
    ours.load_state_dict(checkpoint.get('state_dict', checkpoint), strict=True)
    x = torch.randn(2, 3, IMAGE, IMAGE, dtype=torch.float64)
    with torch.no_grad():
        wanted = forward(theirs, x)
        assert wanted.std() > .1
        torch.testing.assert_close(ours(x), wanted, rtol=1e-9, atol=1e-9)
