"""Configs survive a round trip; those of full size build on the meta device with the published number of parameters."""
import re

import pytest
import torch
from mmengine.config import Config

from helpers.backbones import PARAMETERS
from helpers.configs import CONFIGS, LEAVES, build, load, read

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg]

FULL = dict(t='tiny', s='small', b='base', l='large', h='huge', g='g')


# one of each kind, whatever its size and window
ONE_OF_EACH_KIND = {re.sub(r'_[tsblhg](?=[_.])|w\d+', '', name): name for name in LEAVES}


@pytest.mark.parametrize('name', ONE_OF_EACH_KIND.values())
def test_survives_a_round_trip(name, tmp_path, monkeypatch):
    for module in 'yapf.yapflib.yapf_api', 'mmengine.config.config':  # formatting takes a second
        monkeypatch.setattr(f'{module}.FormatCode', lambda text, **_: (text, True), raising=False)
    cfg = read(name)
    cfg.dump(tmp_path / 'a.py')
    assert Config.fromfile(tmp_path / 'a.py').to_dict() == cfg.to_dict()


@pytest.mark.parametrize('name', [name for name in LEAVES if 'strategy' not in read(name)])
def test_any_config_takes_a_fragment(name, tmp_path):
    for fragment in ('zero1', 'fsdp'):
        path = tmp_path / 'a.py'
        path.write_text(f'_base_ = {[str(CONFIGS / name), str(CONFIGS / "_base_" / "sharding" / f"{fragment}.py")]}')
        cfg = Config.fromfile(path)
        assert cfg.runner_type == 'mmswinv2.Runner' and cfg.strategy.type.startswith('mmswinv2.')
        assert cfg.optim_wrapper.constructor == 'mmswinv2.SwinOptimWrapperConstructor'


@pytest.mark.parametrize('name', LEAVES)
def test_runs_survive_kills_and_bad_losses(name):
    """Each config has the hook and the loop that resume exactly, and time for the longest validation."""
    cfg = read(name)
    assert cfg.custom_imports.imports == ['mmswinv2', 'mmswinv2.engine.setup']
    checkpoint = cfg.default_hooks.checkpoint
    assert checkpoint.type == 'mmswinv2.CheckpointHook'
    assert checkpoint.interval <= cfg.train_cfg['max_epochs' if checkpoint.get('by_epoch', True) else 'max_iters'] / 2
    assert cfg.default_hooks.convert_checkpoint.type == 'mmswinv2.ConvertCheckpointHook'
    assert cfg.default_hooks.non_finite.type == 'mmswinv2.NonFiniteHook'
    assert cfg.train_cfg.type in ('mmswinv2.IterBasedTrainLoop', 'mmswinv2.EpochBasedTrainLoop')
    assert cfg.env_cfg.dist_cfg.timeout == 7200
    assert cfg.model_wrapper_cfg.gradient_as_bucket_view is True


@pytest.mark.parametrize('size', FULL)
def test_full_size_htc_builds_with_the_published_architecture(size):
    cfg = load(f'mmdet/htc_swinv2_{size}.py')
    model = build(cfg)
    net = model.backbone
    outputs = sum(p.numel() for n, p in net.named_parameters() if n.startswith(('norm0.', 'norm1.', 'norm2.')))
    count = sum(p.numel() for p in net.parameters()) - outputs  # the table counts the last norm alone
    assert count == pytest.approx(PARAMETERS[FULL[size]], rel=1e-5 if size in 'hg' else 1e-4)
    assert net.window_sizes == ((32, 32),) * 3 + ((16, 16),)
    assert all(stage.with_cp for stage in net.layers)
    assert type(model).__name__ == 'HybridTaskCascade'
    assert cfg.image_size == (1536, 1536)
    assert [m.in_channels for m in (c.conv for c in model.neck[1].lateral_convs)] == list(net.arch.dims)


def test_g_is_the_papers():
    cfg = load('mmdet/htc_swinv2_g.py')
    net = build(cfg).backbone
    assert (net.arch.embed_dims, net.arch.depths, net.arch.num_heads) == (512, (2, 2, 42, 4), (16, 32, 64, 128))
    assert sum('norm3.weight' in n for n, _ in net.named_parameters()) == 7 + 1  # of blocks, and of the last output
    assert cfg.model.backbone.pretrained_window_sizes == [12, 12, 12, 6]
    assert cfg.optim_wrapper.optimizer.lr == 6e-4


@pytest.mark.parametrize('option, windows', [
    ('model.backbone.window_size=12', ((12, 12),) * 4),
    ('model.backbone.window_size=[24,24,24,12]', ((24, 24),) * 3 + ((12, 12),)),
    ('model.backbone.window_size=[(8,6),(8,6),7,(4,3)]', ((8, 6), (8, 6), (7, 7), (4, 3))),
])
def test_windows_can_be_set_on_the_command_line(option, windows, rng):
    """As ``--cfg-options`` reads it, for training and for testing; coordinates keep the pre-training windows."""
    from argparse import ArgumentParser

    from mmdet.registry import MODELS
    from mmengine.config import DictAction
    parser = ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    cfg = load('mmdet/htc_swinv2_mini.py')
    trained = MODELS.build(cfg.model.backbone)
    cfg.merge_from_dict(parser.parse_args(['--cfg-options', option]).cfg_options)
    net = MODELS.build(cfg.model.backbone)
    assert net.window_sizes == windows
    assert [b.attn.window_size for s in net.layers for b in s.blocks] == [
        w for w, s in zip(windows, net.layers) for _ in s.blocks]
    assert net.pretrained_window_sizes == trained.pretrained_window_sizes == ((8, 8),) * 4
    assert {b.attn.pretrained_window for s in net.layers for b in s.blocks} == {(8, 8)}
    net.load_state_dict(trained.state_dict())  # the same checkpoint
    x = torch.randn(1, 3, 100, 132, generator=rng)
    with torch.no_grad():
        assert all(o.isfinite().all() for o in net.eval()(x))
    sum(o.square().mean() for o in net.train()(x)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
