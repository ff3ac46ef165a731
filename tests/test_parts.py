"""The backbone in parts: embedding, stages with their merging, outputs; options, and initialisation."""
import dataclasses
import inspect
import pickle
import pydoc

import pytest
import torch

from helpers.backbones import SMALL, randomize
from mmswinv2.core import (
    BackboneConfig,
    BlockConfig,
    SwinTransformerV2,
    VideoConfig,
    VideoSwinTransformerV2,
)
from mmswinv2.core.weights import load_backbone, read_backbone_state

pytestmark = pytest.mark.core


def net(**options):
    options = dict(dict(window_size=4, drop_path_rate=0., out_indices=(0, 1)), **options)
    return randomize(SwinTransformerV2(SMALL, **options))


def test_forward_is_embed_maps_and_outputs(rng):
    model, x = net(), torch.randn(2, 3, 44, 36, generator=rng)
    tokens = model.embed(x)
    assert tokens.shape == (2, 11, 9, 8)
    maps = list(model.maps(tokens))
    assert [m.shape for m in maps] == [(2, 11, 9, 8), (2, 6, 5, 16)]
    for ours, whole in zip(model.outputs(maps), model(x), strict=True):
        assert torch.equal(ours, whole)


def test_tokens_can_be_replaced_after_the_embedding(rng):
    """As mask tokens are: the result is another one where they are, and a parameter of their own gets a gradient."""
    model, x = net(), torch.randn(1, 3, 64, 64, generator=rng)
    token = torch.zeros(8, requires_grad=True)
    masked = torch.zeros(1, 16, 16, 1, dtype=torch.bool)
    masked[:, :4, :4] = True
    outs = model.outputs(model.maps(torch.where(masked, token, model.embed(x))))
    assert not torch.allclose(outs[0][..., :4, :4], model(x)[0][..., :4, :4])
    outs[0].sum().backward()
    assert token.grad.any()


def test_a_stage_runs_its_merging(rng):
    model = net()
    x = torch.randn(1, 7, 6, 8, generator=rng)
    ran = []
    model.layers[0].downsample.register_forward_hook(lambda *args: ran.append('merging'))
    current, merged = model.layers[0](x)
    assert current.shape == x.shape and merged.shape == (1, 4, 3, 16) and ran == ['merging']
    assert torch.equal(merged, model.layers[0].downsample(current))
    last, nothing = model.layers[1](merged)
    assert last.shape == merged.shape and nothing is None


def test_nothing_follows_the_last_output(rng):
    part, whole = (net(out_indices=indices, drop_path_rate=.3) for indices in ((0,), (0, 1)))
    assert len(part.layers) == 1 and part.layers[0].downsample is None
    assert part.layers[0].blocks[1].drop_path.rate == whole.layers[0].blocks[1].drop_path.rate
    assert 'after the last output: ' in load_backbone(part, read_backbone_state(whole.state_dict()))
    x = torch.randn(1, 3, 32, 32, generator=rng)
    assert torch.equal(part.eval()(x)[0], whole.eval()(x)[0])
    part.train()(x)[0].square().sum().backward()
    assert all(p.grad is not None for p in part.parameters())


@pytest.mark.parametrize('out_indices', [(0,), (1, 3), (0, 1, 2, 3)])
def test_features_are_what_a_neck_needs(out_indices, rng):
    arch = dict(embed_dims=4, depths=[1] * 4, num_heads=[1] * 4)
    model = SwinTransformerV2(arch, window_size=4, out_indices=out_indices)
    outs = model(torch.randn(1, 3, 64, 96, generator=rng))
    for out, feature in zip(outs, model.features, strict=True):
        assert out.shape == (1, feature.channels, 64 // feature.stride, 96 // feature.stride)
    assert tuple(feature.stage for feature in model.features) == out_indices


@pytest.mark.parametrize('options', [{}, dict(position_bias='parameterized'), dict(qkv_bias=False),
                                     dict(norm_placement='pre', position_bias='linear_cpb')])
def test_to_empty_then_reset_parameters_initialises_all(options):
    arch = dict(embed_dims=16, depths=[1, 2], num_heads=[2, 4], extra_norm_every_n_blocks=2)
    options = dict(options, window_size=4, out_indices=(1,))
    with torch.device('meta'):
        model = SwinTransformerV2(arch, **options)
    model = model.to_empty(device='cpu')
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            value.fill_(float('nan'))
    model.reset_parameters()
    torch.manual_seed(0)
    fresh = SwinTransformerV2(arch, **options)
    for (name, a), b in zip(model.named_parameters(), fresh.parameters(), strict=True):
        assert a.isfinite().all(), name
        assert a.std(correction=0).item() == pytest.approx(b.std(correction=0).item(), rel=.5), name
        assert (a.mean() - b.mean()).abs() < .05, name
    outs = model(torch.randn(1, 3, 32, 32))
    assert outs[0].isfinite().all()


def test_options_are_named_once():
    """The constructor's keywords are the fields of the dataclass, with their defaults."""
    parameters = inspect.signature(SwinTransformerV2).parameters
    fields = {field.name: field.default for field in dataclasses.fields(BackboneConfig)}
    assert {name: p.default for name, p in parameters.items()} == fields
    assert all(p.kind == p.KEYWORD_ONLY for name, p in parameters.items() if name != 'arch')
    assert 'window_size: int | Sequence = 8' in pydoc.render_doc(SwinTransformerV2).replace("'", '')
    video = {field.name for field in dataclasses.fields(VideoConfig)}
    assert video == set(inspect.signature(VideoSwinTransformerV2).parameters)


def test_options_are_frozen_and_survive_pickling():
    config = net(with_cp=[True, False], pretrained_window_sizes=[4, (2, 8)]).config
    assert config.with_cp == (True, False) and config.pretrained_windows == ((4, 4), (2, 8))
    assert pickle.loads(pickle.dumps(config)) == config
    assert dataclasses.replace(config, window_size=8).window_size == ((8, 8), (8, 8))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.mlp_ratio = 2.


def test_hidden_maps_are_kept_where_the_block_is_computed_again():
    for stage, with_cp in zip(net(with_cp=[True, False]).layers, (True, False)):
        assert all(block.mlp.keep_hidden == with_cp for block in stage.blocks)
    assert not BlockConfig().norm_first
