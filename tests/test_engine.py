"""Parameter groups of the optimizer, and reading what MMEngine's runner writes."""
import pickle
from itertools import product

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.runner.checkpoint import _load_checkpoint
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import mmswinv2.engine.setup  # noqa: F401  (as custom_imports of the configs does)
from helpers.backbones import SMALL
from mmswinv2.core.weights import files
from mmswinv2.engine import loading
from mmswinv2.models import SwinTransformerV2

pytestmark = pytest.mark.mmengine


class Model(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.backbone = SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1), **options)
        self.head = nn.Conv2d(16, 4, 1)


def build(model, **paramwise):
    wrapper = build_optim_wrapper(model, dict(
        type='OptimWrapper', constructor='mmswinv2.SwinOptimWrapperConstructor', paramwise_cfg=paramwise,
        optimizer=dict(type='AdamW', lr=1., weight_decay=.05)))
    names = {p: n for n, p in model.named_parameters()}
    return {names[p]: (g['lr'], g['weight_decay']) for g in wrapper.optimizer.param_groups for p in g['params']}


@pytest.mark.parametrize('bias', ['log_cpb', 'parameterized'])
def test_every_parameter_is_in_one_group_and_the_right_ones_decay(bias):
    model = Model(position_bias=bias)
    groups = build(model)
    assert sorted(groups) == sorted(n for n, _ in model.named_parameters())
    decayed = [n for n, (lr, decay) in groups.items() if decay]
    assert decayed == [n for n, p in model.named_parameters() if n.endswith((
        'qkv.weight', 'attn.proj.weight', 'fc1.weight', 'fc2.weight', 'reduction.weight', 'patch_embed.proj.weight',
        'head.weight'))]
    assert {lr for lr, _ in groups.values()} == {1.}


def test_groups_are_few():
    model = Model()
    wrapper = build_optim_wrapper(model, dict(
        type='OptimWrapper', constructor='SwinOptimWrapperConstructor', optimizer=dict(type='SGD', lr=1.)))
    assert len(wrapper.optimizer.param_groups) == 1


def test_learning_rates_fall_layer_by_layer():
    groups = build(Model(), layer_decay_rate=.5, backbone_lr_mult=.1)
    expected = {'backbone.patch_embed.proj.weight': .1 / 2**6, 'backbone.layers.0.blocks.0.mlp.fc1.bias': .1 / 2**5,
                'backbone.layers.0.blocks.1.norm1.weight': .1 / 2**4,
                'backbone.layers.0.downsample.reduction.weight': .1 / 2**3,
                'backbone.layers.1.blocks.0.attn.logit_scale': .1 / 2**2,
                'backbone.layers.1.blocks.1.attn.cpb_mlp.0.weight': .1 / 2, 'backbone.norm0.weight': .1,
                'head.weight': 1.}
    assert {n: groups[n][0] for n in expected} == pytest.approx(expected)


def around(wrap, *names):
    """A model with each of the named modules inside a wrapper."""
    model = Model()
    for name in names:
        parent, _, child = name.rpartition('.')
        setattr(model.get_submodule(parent), child, wrap(model.get_submodule(name)))
    return model


WRAPPED = {
    'student': lambda: nn.ModuleDict(dict(student=Model(), teacher=Model().requires_grad_(False))),
    'model.detector': lambda: nn.ModuleDict(dict(model=nn.ModuleDict(dict(detector=Model())))),
    'module': lambda: around(nn.Sequential, 'backbone'),
    'compiled backbone': lambda: around(torch.compile, 'backbone'),
    'compiled stages': lambda: around(torch.compile, 'backbone.layers.0', 'backbone.layers.1'),
    'checkpointed stages': lambda: around(checkpoint_wrapper, 'backbone.layers.0', 'backbone.layers.1'),
    'checkpointed blocks': lambda: around(checkpoint_wrapper, 'backbone.layers.0.blocks.0', 'backbone.patch_embed'),
    'compiled model': lambda: torch.compile(Model()),
    'the backbone itself': lambda: Model().backbone,
}


@pytest.mark.parametrize('wrapped', WRAPPED)
def test_a_backbone_is_found_wherever_it_is(wrapped):
    """Its parameters have the learning rates that they have in a model's ``backbone``."""
    expected = [lr for name, (lr, _) in build(Model(), layer_decay_rate=.5, backbone_lr_mult=.1).items()]
    model = WRAPPED[wrapped]()
    groups = build(model, layer_decay_rate=.5, backbone_lr_mult=.1)
    trainable = [n for n, p in model.named_parameters() if p.requires_grad]
    assert [groups[n][0] for n in trainable] == expected[:len(trainable)] and len(set(expected)) == 8


def test_two_backbones_each_have_their_layers():
    model = nn.ModuleDict(dict(rgb=Model().backbone, depth=SwinTransformerV2(
        dict(SMALL, depths=[1, 1]), window_size=4, out_indices=(0, 1)), head=nn.Linear(4, 4)))
    groups = build(model, layer_decay_rate=.5)
    assert {n: groups[n][0] for n in ('rgb.patch_embed.proj.weight', 'depth.patch_embed.proj.weight', 'head.weight')
            } == pytest.approx({'rgb.patch_embed.proj.weight': 1 / 2**6, 'depth.patch_embed.proj.weight': 1 / 2**4,
                                'head.weight': 1.})


@pytest.mark.parametrize('rates', [dict(layer_decay_rate=.9), dict(backbone_lr_mult=.1)])
def test_rates_without_a_backbone_are_an_error(rates):
    with pytest.raises(ValueError, match='paramwise_cfg must have no rate but 1 for a model without SwinV2, got '
                                         'backbone_lr_mult=.*for Linear'):
        build(nn.Linear(4, 4), **rates)
    assert build(nn.Linear(4, 4))['weight'] == (1., .05)


def test_frozen_parameters_are_left_out():
    assert not any(n.startswith(('backbone.patch_embed', 'backbone.layers.0', 'backbone.norm0'))
                   for n in build(Model(frozen_stages=1)))


@pytest.mark.parametrize('paramwise, message', [
    (dict(custom_keys={}), r"paramwise_cfg must have no key but .*got \['custom_keys'\]"),
    (dict(layer_decay_rate=0), r'paramwise_cfg.layer_decay_rate must be a number in \(0, 1\], got 0'),
    (dict(backbone_lr_mult=True), r'paramwise_cfg.backbone_lr_mult must be a number in \(0, 1\], got True'),
])
def test_bad_paramwise_cfg_is_named(paramwise, message):
    with pytest.raises(ValueError, match=message):
        build(Model(), **paramwise)


def test_layer_depth_of_a_foreign_name_is_an_error():
    with pytest.raises(ValueError, match="param_name must be .*got 'backbone.stages.0.weight'"):
        Model().backbone.get_layer_depth('backbone.stages.0.weight', prefix='backbone.')


@pytest.fixture
def runner_file(tmp_path):
    """A file as the runner writes it."""
    hub = MessageHub.get_instance('test_checkpoints_of_the_runner')
    for i in range(3):
        hub.update_scalar('train/loss', 1. / (i + 1))
        hub.update_scalar('train/count', np.float32(i))
    hub.update_info('iter', 3)
    torch.save(dict(state_dict=dict(w=torch.ones(2)), message_hub=hub.state_dict()), tmp_path / 'iter_3.pth')
    yield tmp_path / 'iter_3.pth'
    MessageHub._instance_dict.pop('test_checkpoints_of_the_runner')


def test_checkpoints_of_the_runner_load_with_safe_loading(runner_file):
    """Also beside and after a list of others: onedl-mmengine lists classes while it reads a file, and torch removes
    them from its list afterwards. torch's own list stays as it was.
    """
    history = loading.read_run(runner_file)['message_hub']['log_scalars']['train/loss']
    assert isinstance(history, HistoryBuffer)
    assert history.mean() == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert history.statistics('current') == pytest.approx(1 / 3)
    reconstruct, scalar = np.zeros(1).__reduce__()[0], np.zeros(1)[0].__reduce__()[0]
    with torch.serialization.safe_globals([HistoryBuffer, np.ndarray, np.dtype, getattr, reconstruct, scalar,
                                           type(np.dtype('f8')), type(np.dtype('i8'))]):
        torch.load(runner_file)
        assert 'message_hub' in loading.read_run(runner_file)
    assert _load_checkpoint(str(runner_file))['message_hub']['runtime_info'] == {'iter': 3}  # the runner's own reader
    with pytest.raises(pickle.UnpicklingError, match='HistoryBuffer'):
        torch.load(runner_file)


def test_getattr_in_a_checkpoint_reaches_history_buffer_only(tmp_path):
    assert loading.history_buffer_method(HistoryBuffer, 'mean') is HistoryBuffer.mean
    for owner, name in ((HistoryBuffer, '__init__'), (HistoryBuffer, '_set_default_statistics'), (torch, 'load'),
                        (HistoryBuffer, 'nothing'), (np, 'fromfile'), (np.ndarray, 'mean')):
        with pytest.raises(ValueError, match='methods of HistoryBuffer only'):
            loading.history_buffer_method(owner, name)


def test_other_code_in_a_checkpoint_is_still_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (getattr, (np.ndarray, 'tofile'))
    torch.save(dict(evil=Evil()), tmp_path / 'a.pth')
    for load in files.unpickle, files.unpickle_before_torch_2_6:
        with pytest.raises((pickle.UnpicklingError, ValueError)):
            load(str(tmp_path / 'a.pth'), loading.safe_globals())
        load(str(tmp_path / 'a.pth'), files.STAND_INS)  # as nothing

    class Worse:
        def __reduce__(self):
            return (open, (str(tmp_path / 'ran'), 'w'))
    torch.save(dict(evil=Worse()), tmp_path / 'b.pth')
    for load, objects in product((files.unpickle, files.unpickle_before_torch_2_6),
                                 (loading.safe_globals(), files.STAND_INS)):
        with pytest.raises(pickle.UnpicklingError):
            load(str(tmp_path / 'b.pth'), objects)
    assert not (tmp_path / 'ran').exists()
