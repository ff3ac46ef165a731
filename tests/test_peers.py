"""Beside the real classes of other projects, through their state dicts: equal output, strict loading back.

``transformers`` is a test dependency. ``timm``, ``torchvision`` and ``mmpretrain`` are run where they are installed
(torchvision has no CPU build for every torch). Sizes are those at which these projects are right: maps that windows
divide.
"""
import pytest
import torch

import reference
from helpers.backbones import randomize
from mmswinv2.core import SwinTransformerV2
from mmswinv2.core.weights import check_complete, load_backbone, read_backbone_state, to_layout

pytestmark = pytest.mark.core

SIZES = dict(embed_dim=8, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8])
# image size, window, pre-training windows: the published patterns, the window of the last stage shrunk to its map
PUBLISHED = [(256, 8, [8, 8, 8, 8]), (256, 16, [16, 16, 16, 8]), (256, 16, [12, 12, 12, 6]), (384, 24, [12, 12, 12, 6])]


def exact_coordinates(module, unsaid=0):
    """Their tables of coordinates again, in float64: they keep them rounded to float32 in a float64 model.

    ``unsaid`` is the pre-training window where their module does not keep it; 0: the window.
    """
    for m in module.modules():
        if hasattr(m, 'relative_coords_table') and m.relative_coords_table is not None:
            pretrained = getattr(m, 'pretrained_window_size', (unsaid, unsaid))
            pretrained = [p if p > 0 else w for p, w in zip(pretrained, m.window_size)]
            h, w = m.window_size
            table = [[[reference.relative_coordinate(i, pretrained[0], 'log_cpb'),
                       reference.relative_coordinate(j, pretrained[1], 'log_cpb')] for j in range(1 - w, w)]
                     for i in range(1 - h, h)]
            m.relative_coords_table = torch.tensor(table, dtype=torch.float64).view_as(m.relative_coords_table)
    return module


def hf_model(image, window, pretrained, **sizes):
    transformers = pytest.importorskip('transformers')
    config = transformers.Swinv2Config(image_size=image, window_size=window, pretrained_window_sizes=pretrained,
                                       drop_path_rate=0., **sizes)
    return transformers.Swinv2Model(config, add_pooling_layer=False).double().eval()


def ours_like(sizes, windows, pretrained):
    arch = dict(embed_dims=sizes['embed_dim'], depths=sizes['depths'], num_heads=sizes['num_heads'])
    return SwinTransformerV2(arch, window_size=windows, pretrained_window_sizes=pretrained,
                             out_indices=(3,)).double().eval()


def check_transformers(image, window, pretrained, sizes, std, tolerance):
    windows = [window, window, window, min(window, image // 32)]
    theirs = exact_coordinates(randomize(hf_model(image, window, pretrained, **sizes), std=std))
    with torch.no_grad():
        for name, p in theirs.named_parameters():  # randomize does not know their names of norms
            if 'norm' in name and name.endswith('weight'):
                p.add_(1)
    x = torch.randn(2, 3, image, image, dtype=torch.float64)
    ours = ours_like(sizes, windows, pretrained)
    found = read_backbone_state(theirs.state_dict())
    load_backbone(ours, found)
    with torch.no_grad():
        a, b = ours(x)[0], theirs(x).last_hidden_state.transpose(1, 2).unflatten(2, (image // 32, image // 32))
    assert b.std() > .1
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * b.abs().max().item())

    again = exact_coordinates(hf_model(image, window, pretrained, **sizes))
    out, _ = to_layout(read_backbone_state(ours.state_dict()), 'transformers')
    again.load_state_dict(out, strict=True)
    with torch.no_grad():
        assert torch.equal(again(x).last_hidden_state, theirs(x).last_hidden_state)


@pytest.mark.parametrize('image, window, pretrained', PUBLISHED[:3])
def test_transformers(image, window, pretrained):
    check_transformers(image, window, pretrained, SIZES, .2, 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize('arch', ['tiny', 'small', 'base', 'large'])
@pytest.mark.parametrize('image, window, pretrained', PUBLISHED)
def test_transformers_at_full_size(arch, image, window, pretrained):
    from mmswinv2.core import get_arch
    a = get_arch(arch)
    sizes = dict(embed_dim=a.embed_dims, depths=list(a.depths), num_heads=list(a.num_heads))
    check_transformers(image, window, pretrained, sizes, .05, 1e-10)


def test_transformers_backbone_and_other_heads():
    """Other classes of the project hold the same weights under other prefixes, with weights of their own beside."""
    transformers = pytest.importorskip('transformers')
    config = transformers.Swinv2Config(image_size=64, window_size=4, out_features=['stage1', 'stage4'], num_labels=3,
                                       **SIZES)
    for cls in (transformers.Swinv2Backbone, transformers.Swinv2ForImageClassification,
                transformers.Swinv2ForMaskedImageModeling):
        found = read_backbone_state(cls(config).state_dict())
        assert found.source == 'transformers' and check_complete(found)['arch']['depths'] == SIZES['depths']


def with_head(ours, **changes):
    """A state of ours with a head of 5 classes, as a file of another project is read."""
    norm = ours.norm3.bias.detach()
    head = {'head.weight': torch.randn(5, len(norm), dtype=norm.dtype), 'head.bias': torch.randn(5, dtype=norm.dtype)}
    return read_backbone_state({**ours.state_dict(), **head, **changes}), head


def logits(ours, head, x):
    return ours(x)[0].mean((2, 3)) @ head['head.weight'].T + head['head.bias']


def test_a_classifier_of_transformers():
    """Its head is read, and ours is written; each gives the other's logits. A mask token goes along, too."""
    transformers = pytest.importorskip('transformers')
    config = transformers.Swinv2Config(image_size=256, window_size=8, pretrained_window_sizes=[8] * 4, num_labels=5,
                                       drop_path_rate=0., **SIZES)
    theirs = transformers.Swinv2ForImageClassification(config).double().eval()
    ours = randomize(ours_like(SIZES, 8, 8), std=.2)
    found, head = with_head(ours)
    exact_coordinates(theirs).load_state_dict(to_layout(found, 'transformers')[0], strict=True)
    x = torch.randn(2, 3, 256, 256, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x).logits, logits(ours, head, x), rtol=1e-9, atol=1e-9)
    again = read_backbone_state(theirs.state_dict()).extras
    assert set(again) == set(head) and all(torch.equal(v, head[k]) for k, v in again.items())

    masked = transformers.Swinv2Model(config, add_pooling_layer=False, use_mask_token=True).double()
    found, _ = with_head(ours, mask_token=torch.randn(1, 1, 8, dtype=torch.float64))
    del found.extras['head.weight'], found.extras['head.bias']
    masked.load_state_dict(to_layout(found, 'transformers')[0], strict=True)
    assert torch.equal(masked.embeddings.mask_token, found.extras['mask_token'])


def test_timm():
    pytest.importorskip('timm')
    from timm.models.swin_transformer_v2 import SwinTransformerV2 as Timm
    for image, window, pretrained in PUBLISHED[:3]:
        def build():
            return Timm(img_size=image, window_size=window, num_classes=0, drop_path_rate=0.,
                        pretrained_window_sizes=pretrained, **SIZES).double().eval()
        theirs = exact_coordinates(randomize(build(), std=.2))
        ours = ours_like(SIZES, [window, window, window, image // 32], pretrained)
        load_backbone(ours, read_backbone_state(theirs.state_dict()))
        x = torch.randn(2, 3, image, image, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(ours(x)[0], theirs.forward_features(x).permute(0, 3, 1, 2), rtol=1e-9, atol=1e-9)
        again = exact_coordinates(build())
        again.load_state_dict(to_layout(read_backbone_state(ours.state_dict()), 'timm')[0], strict=True)
        with torch.no_grad():
            assert torch.equal(again.forward_features(x), theirs.forward_features(x))
    classifier = Timm(img_size=256, window_size=8, num_classes=5, **SIZES).double().eval()
    ours = randomize(ours_like(SIZES, 8, 8), std=.2)
    found, head = with_head(ours)
    exact_coordinates(classifier).load_state_dict(to_layout(found, 'timm')[0], strict=True)
    x = torch.randn(2, 3, 256, 256, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(classifier(x), logits(ours, head, x), rtol=1e-9, atol=1e-9)


def test_torchvision():
    pytest.importorskip('torchvision')
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2
    from torchvision.models.swin_transformer import SwinTransformer as Torchvision

    def build():
        return Torchvision(patch_size=[4, 4], window_size=[8, 8], stochastic_depth_prob=0., num_classes=5,
                           block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2, **SIZES).double().eval()
    theirs = build()
    exact_coordinates(randomize(theirs, std=.2))
    ours = ours_like(SIZES, 8, 8)
    found = read_backbone_state(theirs.state_dict())
    assert found.window_sizes == found.pretrained_window_sizes == ((8, 8),) * 4
    load_backbone(ours, found)
    x = torch.randn(2, 3, 256, 256, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs.norm(theirs.features(x)).permute(0, 3, 1, 2)
        torch.testing.assert_close(ours(x)[0], expected, rtol=1e-9, atol=1e-9)
    ours = randomize(ours, seed=3, std=.2)
    found, head = with_head(ours)
    again = build()
    again.load_state_dict(to_layout(found, 'torchvision')[0], strict=True)
    with torch.no_grad():
        torch.testing.assert_close(exact_coordinates(again)(x), logits(ours, head, x), rtol=1e-9, atol=1e-9)


def test_mmpretrain(monkeypatch):
    """It deletes coordinates and index of a file, which it makes itself: these alone are missing then."""
    dependency = pytest.importorskip('mmpretrain.utils.dependency')
    monkeypatch.setattr(dependency, 'WITH_MULTIMODAL', False)  # these models are for transformers before 5
    import mmpretrain.models  # noqa: F401
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS
    arch = dict(embed_dims=8, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8], extra_norm_every_n_blocks=2)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        theirs = MODELS.build(dict(
            type='ImageClassifier', neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=5, in_channels=64, loss=dict(type='CrossEntropyLoss')),
            backbone=dict(type='mmpretrain.SwinTransformerV2', arch=arch, img_size=256, window_size=[8] * 4,
                          pretrained_window_sizes=[8] * 4, out_indices=(3,), drop_path_rate=0.))).double().eval()
    ours = SwinTransformerV2(arch, window_size=8, pretrained_window_sizes=8, out_indices=(3,))
    randomize(ours.double().eval(), std=.2)
    found, head = with_head(ours)
    problems = theirs.load_state_dict(to_layout(found, 'mmpretrain')[0], strict=False)
    assert not problems.unexpected_keys
    assert {k.rsplit('.', 1)[1] for k in problems.missing_keys} <= {'relative_coords_table', 'relative_position_index'}
    x = torch.randn(2, 3, 256, 256, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(exact_coordinates(theirs)(x), logits(ours, head, x), rtol=1e-9, atol=1e-9)
    again = read_backbone_state(dict(state_dict=theirs.state_dict()))
    assert again.source == 'mmpretrain' and again.pretrained_window_sizes == ((8, 8),) * 4
    assert all(torch.equal(v, found.state[k]) for k, v in again.state.items())
    assert set(again.extras) == set(head) and all(torch.equal(v, head[k]) for k, v in again.extras.items())
