"""mmpretrain's LoRA around the backbone: as its modules, and as docs/usage.md trains and merges it."""
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from helpers.backbones import SMALL, randomize
from helpers.configs import CONFIGS, load, register
from helpers.docs import files
from helpers.runs import environment, step, train_in_turn
from mmswinv2.engine import read_run

pytestmark = pytest.mark.mmpretrain

TARGETS = ['attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2', 'cpb_mlp.0', 'reduction']
RECIPE = 'mmpretrain/swinv2_mini.py'


def build(cfg):
    register('mmpretrain')
    from mmpretrain.registry import MODELS
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(cfg)


@pytest.mark.parametrize('target', TARGETS)
def test_adapters_alone_are_trained(target, rng):
    module = dict(type='mmswinv2.SwinTransformerV2', arch=SMALL, window_size=4, out_indices=(0, 1),
                  drop_path_rate=0.)
    model = randomize(build(dict(type='LoRAModel', module=module, rank=2, alpha=2, targets=[dict(type=target)])))
    assert model.train() is model
    sum(out.square().sum() for out in model(torch.randn(1, 3, 44, 36, generator=rng))).backward()
    trained = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained == {n for n, _ in model.named_parameters() if 'lora_' in n} != set()
    assert all(f'{target}.lora_' in name for name in trained)


@pytest.mark.parametrize('options, layers', [({}, (6, 5, 3, 2)), (dict(merging_layers=False), (5, 4, 3, 2))])
def test_rates_fall_layer_by_layer(options, layers, monkeypatch):
    from mmpretrain.models import LoRAModel  # its later versions have this method
    monkeypatch.setattr(LoRAModel, 'get_layer_depth', lambda self, name, prefix='': (
        self.module.get_layer_depth(name, prefix)), raising=False)
    module = dict(type='mmswinv2.SwinTransformerV2', arch=SMALL, window_size=4, out_indices=(0, 1))
    lora = build(dict(type='LoRAModel', module=module, rank=2, targets=[dict(type='qkv')]))
    wrapper = build_optim_wrapper(nn.ModuleDict(dict(backbone=lora)), dict(
        type='OptimWrapper', constructor='mmswinv2.SwinOptimWrapperConstructor', optimizer=dict(type='SGD', lr=1.),
        paramwise_cfg=dict(layer_decay_rate=.5, **options)))
    assert [g['lr'] for g in wrapper.optimizer.param_groups] == [.5**(n - 1) for n in layers]


@pytest.mark.slow
def test_training_and_merging_as_in_the_docs(tmp_path, rng):
    """A run's checkpoints hold adapters and the head; merged, they are the recipe's own, with the same logits."""
    from PIL import Image
    for split in ('train', 'val'):
        for label in range(10):
            folder = tmp_path / 'data' / split / str(label)
            folder.mkdir(parents=True)
            Image.new('RGB', (32, 32), (20 * label, 90, 40)).save(folder / '0.png')
    plain = randomize(build(load(RECIPE).model), std=.1)
    torch.save(plain.backbone.state_dict(), tmp_path / 'weights.pth')
    texts = files(Path('docs/usage.md'))
    config, merge = tmp_path / 'lora.py', tmp_path / 'merge_lora.py'
    config.write_text(texts['swinv2_l_lora.py'].replace(
        'configs/mmpretrain/swinv2_l_384-w24_22kto1k.py', str(CONFIGS / RECIPE)).replace(
        'FILE', str(tmp_path / 'weights.pth')))
    merge.write_text(texts['merge_lora.py'])
    options = ['--cfg-options', 'param_scheduler.0.end=1', 'param_scheduler.1.begin=1', 'param_scheduler.1.end=2',
               'train_dataloader.batch_size=4', 'default_hooks.checkpoint.interval=1',
               f'train_dataloader.dataset.data_root={tmp_path / "data"}']
    for iters, resume in ((1, []), (2, ['--resume'])):
        codes, logs = train_in_turn(tmp_path, [step('mmpretrain', config, tmp_path / 'work', *resume, *options,
                                                    f'train_cfg.max_iters={iters}')], data=tmp_path)
        assert codes == [[0]], logs
    saved = read_run(tmp_path / 'work' / 'iter_2.pth')['state_dict']
    assert {name.split('.')[0] for name in saved} == {'backbone', 'head'}
    assert all('.lora_' in name for name in saved if name.startswith('backbone.'))
    assert all(value.any() for value in saved.values())
    subprocess.run([sys.executable, merge, config, tmp_path / 'work' / 'iter_2.pth', tmp_path / 'merged.pth'],
                   check=True, env=environment(), timeout=120)
    lora = build(Config.fromfile(config).model)
    lora.load_state_dict(saved)
    plain.load_state_dict(torch.load(tmp_path / 'merged.pth')['state_dict'], strict=True)
    x = torch.randn(2, 3, 32, 32, generator=rng)
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(x), lora.eval()(x), atol=1e-4, rtol=1e-4)
