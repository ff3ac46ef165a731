"""DeepSpeed's ZeRO against one process without it: steps, checkpoints, and both ways between them."""
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine._strategy import SingleDeviceStrategy
from mmengine.config import Config

from helpers import runs, zero
from mmswinv2.engine import DeepSpeedStrategy, read_run

pytestmark = pytest.mark.mmdet

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'configs' / 'mmdet'
needs_deepspeed = pytest.mark.skipif(find_spec('deepspeed') is None, reason='needs deepspeed: pip install deepspeed')
ENV = dict(launcher='none', randomness=dict(seed=0))
DISPATCH = dict(train_micro_batch_size_per_gpu=2)


def strategy(tmp_path, **kwargs):
    return DeepSpeedStrategy(work_dir=str(tmp_path), env_kwargs=ENV, **kwargs)


def plain(tmp_path, **kwargs):
    single = SingleDeviceStrategy(work_dir=str(tmp_path), env_kwargs=ENV)
    return zero.train(single, samples=(0, 1), **kwargs)


def assert_close(got, expected, **tolerance):
    """Weights and the whole state of the optimizer."""
    assert got['state_dict'].keys() == expected['state_dict'].keys()
    for key, value in expected['state_dict'].items():
        torch.testing.assert_close(got['state_dict'][key], value, **tolerance, msg=lambda m, key=key: f'{key}: {m}')
    got, expected = got['optimizer'], expected['optimizer']
    assert got['param_groups'] == expected['param_groups'] and got['state'].keys() == expected['state'].keys()
    for number, state in expected['state'].items():
        assert got['state'][number].keys() == state.keys() == {'step', 'exp_avg', 'exp_avg_sq'}
        for key, value in state.items():
            torch.testing.assert_close(got['state'][number][key], value, **tolerance)


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize('stage, counts', [(1, 1), (2, 2)])
def test_two_processes_equal_one_without_deepspeed(stage, counts, tmp_path):
    run = tmp_path / 'zero'
    texts = zero.run_processes(zero.__file__, run, stage, counts, 0, 4, 1, processes=2)
    for text in texts:
        held, trained = map(int, re.search(r'held (\d+) (\d+)', text).groups())
        assert trained < held < 1.05 * trained  # two moments of a half, not of the whole
    found = [re.search(r'steps (.+) norm (.+) squares (.+)', text).groups() for text in texts]
    steps, norms, squares = zip(*(map(float, f) for f in found))
    assert set(steps) == {4 / counts} and norms[0] == norms[1] == pytest.approx(sum(squares)**.5, rel=1e-5)
    plain(tmp_path / 'plain', counts=counts, first=0, last=4)
    start = zero.build().state_dict()
    expected = read_run(tmp_path / 'plain' / 'iter_4.pth')
    moved = {k for k, v in expected['state_dict'].items() if not torch.equal(v, start[k])}
    assert {k.split('.')[0] for k in moved} == {'backbone', 'head'} and not any('patch_embed' in k for k in moved)
    for name in ('iter_2.pth', 'iter_4.pth'):
        assert_close(read_run(run / name), read_run(tmp_path / 'plain' / name), rtol=1e-4, atol=2e-6)
    assert read_run(run / 'iter_4.pth')['param_schedulers'] == expected['param_schedulers']
    assert sorted(p.name for p in run.iterdir() if p.is_file()) == ['iter_2.pth', 'iter_4.pth']  # no part left

    # resumed by as many processes: the same bits
    zero.run_processes(zero.__file__, tmp_path / 'again', stage, counts, 2, 4, 1, run / 'iter_2.pth', processes=2)
    assert_close(read_run(tmp_path / 'again' / 'iter_4.pth'), read_run(run / 'iter_4.pth'), rtol=0, atol=0)
    # without DeepSpeed
    plain(tmp_path / 'left', counts=counts, first=2, last=4, resume=str(run / 'iter_2.pth'))
    assert_close(read_run(tmp_path / 'left' / 'iter_4.pth'), expected, rtol=1e-4, atol=2e-6)
    # and by one process with DeepSpeed, from the run without
    zero.run_processes(zero.__file__, tmp_path / 'one', stage, counts, 2, 4, 2, tmp_path / 'plain' / 'iter_2.pth',
                       processes=1)
    assert_close(read_run(tmp_path / 'one' / 'iter_4.pth'), expected, rtol=1e-4, atol=2e-6)


@needs_deepspeed
def test_htc_trains_as_a_user_starts_it_and_its_checkpoint_is_a_plain_one(tmp_path, monkeypatch):
    monkeypatch.setenv('DS_ACCELERATOR', 'cpu')
    data = tmp_path / 'data'
    tool = ROOT / 'tools' / 'make_mini_coco.py'
    subprocess.run([sys.executable, tool, data, '--train', '4', '--val', '2'], check=True, timeout=120)
    half = 'model = dict(backbone=dict(autocast_dtype="bfloat16", with_cp=True))\n'
    config = runs.write_config(tmp_path, 'mmdet', 'deepspeed_zero1', iters=2, more=runs.several() + half)
    log = runs.train('mmdet', config, tmp_path / 'run', data=data, processes=2)
    assert len(re.findall(r'grad_norm: [\d.]+ +loss: [\d.]+', log)) == 2
    # a loss that is NaN on one process stops both
    (tmp_path / 'nan').mkdir()
    several = runs.several('nan_on_rank_1')
    poisoned = runs.write_config(tmp_path / 'nan', 'mmdet', 'deepspeed_zero1', iters=3, more=half + several)
    log = runs.train('mmdet', poisoned, tmp_path / 'nan' / 'run', data=data, processes=2, ok=False)
    assert log.count('FloatingPointError: training stops before the step of iteration 3: s0.loss_cls') == 2, log[-3000:]
    # resumed in one process without DeepSpeed, the weights read strictly
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.registry import DefaultScope
    from mmengine.runner import load_checkpoint
    without = runs.write_config(tmp_path, 'mmdet', iters=3)
    log = runs.train('mmdet', without, tmp_path / 'on', '--resume', tmp_path / 'run' / 'iter_2.pth', data=data)
    assert 'resumed epoch: 0, iter: 2' in log
    register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(Config.fromfile(without).model)
    checkpoint = load_checkpoint(model, str(tmp_path / 'run' / 'iter_2.pth'), strict=True)
    assert {v.dtype for v in model.state_dict().values() if v.is_floating_point()} == {torch.float32}
    assert len(checkpoint['optimizer']['state']) == sum(p.requires_grad for p in model.parameters())


def test_training_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'deepspeed', None)
    trained = strategy(tmp_path)
    trained._distributed = True
    with pytest.raises(ImportError, match='pip install deepspeed'):
        trained.prepare(zero.build(), optim_wrapper=dict(optimizer=dict(type='AdamW')), dispatch_kwargs=DISPATCH)


def test_tests_and_loads_plain_files_without_deepspeed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'deepspeed', None)
    saved = zero.build()
    torch.nn.init.ones_(saved.head.weight)
    torch.save(dict(state_dict=saved.state_dict(), meta=dict(a=1)), tmp_path / 'a.pth')
    torch.save(saved.state_dict(), tmp_path / 'bare.pth')
    for name in ('a.pth', 'bare.pth'):
        tested = strategy(tmp_path)
        model = zero.build()
        tested.prepare(model)
        seen = []
        tested.load_checkpoint(str(tmp_path / name), callback=seen.append)
        assert len(seen) == 1
        assert model is tested.model and all(map(torch.equal, model.state_dict().values(), saved.state_dict().values()))


@pytest.mark.parametrize('change, message', [
    (dict(type='AmpOptimWrapper', dtype='bfloat16'), 'autocast_dtype'),
    (dict(optimizer=dict(type='SGD')), 'Adam or AdamW'),
    (dict(optimizer=dict(type='ZeroRedundancyOptimizer', optimizer_type='AdamW')), 'Adam or AdamW'),
    (dict(clip_grad=dict(max_norm=1., norm_type=1)), 'clip_grad'),
    (dict(clip_grad=dict(type='value', clip_value=1.)), 'clip_grad'),
])
def test_what_deepspeed_cannot_do_is_an_error(change, message, tmp_path):
    trained = strategy(tmp_path)
    trained.dispatch_kwargs.update(DISPATCH)
    good = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1.), clip_grad=dict(max_norm=2.),
                accumulative_counts=2)
    left = trained._translate(good)
    assert left['optimizer'] == good['optimizer'] and left.keys() == {'type', 'optimizer', 'accumulative_counts'}
    assert {k: trained.config[k] for k in ('gradient_clipping', 'gradient_accumulation_steps')} == dict(
        gradient_clipping=2., gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match=message):
        trained._translate({**good, **change})


@pytest.mark.parametrize('kwargs, message', [
    (dict(zero_optimization=dict(stage=3)), 'stage must be 1 or 2'),
    (dict(zero_optimization=dict(stage=1, offload_optimizer=dict(device='cpu'))), 'offload'),
    (dict(config=dict(bf16=dict(enabled=True))), "must not have .'bf16'"),
    (dict(config=dict(torch_autocast=dict(enabled=True))), 'torch_autocast'),
])
def test_options_outside_the_design_are_errors(kwargs, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        strategy(tmp_path, **kwargs)


def test_training_needs_a_launcher(tmp_path):
    with pytest.raises(ValueError, match='--launcher pytorch'):
        strategy(tmp_path).prepare(zero.build(), optim_wrapper=dict(optimizer=dict(type='AdamW')),
                                   dispatch_kwargs=DISPATCH)


def test_the_fragment_fits_every_config():
    fragment = Config.fromfile(CONFIGS / '_base_' / 'deepspeed_zero1.py')
    names = sorted(p for p in CONFIGS.glob('*.py') if p.name != 'htc_swinv2_g_deepspeed.py')
    assert len(names) > 20
    for name in names:
        assert not re.search(r'^(strategy|runner_type)\b', name.read_text(), re.M), name
    cfg = Config.fromfile(CONFIGS / 'htc_swinv2_g_deepspeed.py')
    base = Config.fromfile(CONFIGS / 'htc_swinv2_g_amp-bf16.py')
    assert cfg.to_dict() == {**base.to_dict(), **fragment.to_dict()}


def test_the_runner_finds_the_strategy():
    from mmengine.registry import STRATEGIES
    cfg = Config.fromfile(CONFIGS / '_base_' / 'deepspeed_zero1.py')
    assert STRATEGIES.get(cfg.strategy.type) is DeepSpeedStrategy
