"""One error lists all that stands between a config and its training, before the model is made."""
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import FlexibleRunner
from mmengine.runner import Runner as MMEngineRunner

from helpers.configs import CONFIGS, build
from mmswinv2.engine import runner
from mmswinv2.engine.runner import Runner, find_faults

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg]


def config(name='mmdet/htc_swinv2_g.py', **options):
    cfg = Config.fromfile(CONFIGS / name)
    cfg.merge_from_dict(options)
    return cfg


@pytest.fixture
def eight(monkeypatch):
    """Eight processes of ``--launcher pytorch``."""
    monkeypatch.setenv('WORLD_SIZE', '8')


@pytest.fixture
def anywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_all_faults_are_in_one_error_and_nothing_is_made(anywhere, monkeypatch):
    monkeypatch.setattr(runner, 'make_runner', pytest.fail)
    with pytest.raises(ValueError) as error:
        RUNNERS.build(config('mmdet/htc_swinv2_h.py')).train()
    text = str(error.value)
    assert text.startswith('training cannot begin with this config and this machine; ')
    for part in ('train_dataloader.dataset.data_root must name data that are there, got data/coco/',
                 'val_evaluator.ann_file must be a file, got data/coco/annotations/instances_val2017.json',
                 'init_cfg.checkpoint must name the weights', 'simmim_swinv2_h_192-w12.py, which leaves work_dirs/',
                 'the batch must be 64 images', 'optim_wrapper.accumulative_counts=8'):
        assert part in text


@pytest.mark.parametrize('name, options, found', [
    ('mmdet/htc_swinv2_l.py', dict(), []),
    ('mmdet/htc_swinv2_l.py', {'train_dataloader.batch_size': 4}, ['the batch must be 64 images']),
    ('mmdet/htc_swinv2_l.py', {'train_dataloader.batch_size': 4, 'default_hooks.batch_size.allow_other': True}, []),
    ('mmdet/htc_swinv2_g.py', dict(), ['init_cfg.checkpoint must name the weights']),
    ('mmdet/htc_swinv2_g.py', {'model.backbone.init_cfg': None}, []),
    ('mmdet/htc_swinv2_g.py', {'model.backbone.init_cfg.checkpoint': 'a.pth'}, ['got a.pth, which does not exist']),
    ('mmdet/htc_swinv2_g_objects365-pre.py', dict(), ['load_from must be a file or URL, got work_dirs/htc']),
    ('mmpretrain/swinv2_g_640-w40.py', dict(), ['load_from must name the weights.*22k-ext']),
    ('mmpretrain/swinv2_t_512-w16_fine-tune.py', {'model.backbone.position_bias': 'linear_cpb'},
     ['load_from must name weights with the position bias linear_cpb; none were released']),
    ('mmseg/upernet_swinv2_t_512-w16.py', {'model.backbone.position_bias': 'parameterized'},
     ['checkpoint must name weights with the position bias parameterized; none were released']),
    ('mmdet/htc_swinv2_h.py', {'model.backbone.init_cfg': None, 'custom_hooks': [dict(type='EMAHook')]},
     ['custom_hooks must have no EMAHook beside strategy mmswinv2.FSDPStrategy']),
    ('mmdet/htc_swinv2_h.py', {'model.backbone.init_cfg': None, 'find_unused_parameters': True},
     ['find_unused_parameters must be False beside strategy']),
    ('mmdet/htc_swinv2_l.py', {'model.backbone.autocast_dtype': 'float16'}, ['optim_wrapper.type must be AmpOptim']),
])
def test_what_is_found(name, options, found, anywhere, eight, monkeypatch):
    monkeypatch.setattr(runner, 'missing_data', lambda *args: ())
    monkeypatch.setitem(sys.modules, 'instaboostfast', SimpleNamespace(__spec__=object()))
    faults = list(find_faults(config(name, launcher='pytorch', val_evaluator=None, **options)))
    assert len(faults) == len(found)
    for text, part in zip(faults, found):
        assert re.search(part, text)


def test_data_sets_of_others_are_not_guessed(anywhere, tmp_path):
    (tmp_path / 'a.lmdb').touch()
    for dataset in (dict(type='Mine', ann_file=''), dict(type='Mine', data_root='a.lmdb'),
                    dict(type='Mine', files=['a']), dict(type='Mine', data_root='s3://a', ann_file='b.json'),
                    dict(type='Mine', ann_file='b.json', backend_args=dict(backend='petrel'))):
        nested = dict(dataset=dict(type='RepeatDataset', dataset=dataset))
        assert not list(runner.missing_data('train_dataloader', nested))


def test_a_torch_without_fully_shard_has_a_way(eight, monkeypatch):
    monkeypatch.delattr('torch.distributed.fsdp.fully_shard')
    fault, = runner.contradictions(config('mmdet/htc_swinv2_g.py', launcher='pytorch'))
    assert 'needs torch >= 2.6' in fault and 'strategy.type=mmswinv2.ZeroStrategy' in fault
    assert not list(runner.contradictions(config('mmdet/htc_swinv2_g.py')))  # one process is a plain run


def test_a_gpu_without_bfloat16_has_a_way(monkeypatch):
    for name in ('is_available', 'is_bf16_supported'):
        monkeypatch.setattr(torch.cuda, name, lambda *args, name=name: name == 'is_available')
    fault, = runner.contradictions(config('mmdet/htc_swinv2_l.py'))
    assert 'no bfloat16' in fault and 'model.backbone.autocast_dtype=None' in fault


def test_data_and_packages(anywhere, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, 'find_spec', lambda name: None)
    faults = '\n'.join(find_faults(config('mmdet/htc_swinv2_t_own-data.py')))
    assert 'train_dataloader.dataset.data_root must name the data of mmswinv2.CocoInstances, got None' in faults
    (tmp_path / 'data/coco/train2017').mkdir(parents=True)
    faults = '\n'.join(find_faults(config('mmdet/htc_swinv2_l.py')))
    assert 'train_dataloader.dataset needs data/coco/annotations/instances_train2017.json, which does not' in faults
    assert 'data/coco/train2017' not in faults and 'val_dataloader.dataset needs data/coco/val2017' in faults
    assert 'InstaBoost of the pipeline needs the package instaboostfast: pip install instaboostfast' in faults


@pytest.mark.parametrize('strategy, needed', [('FSDPStrategy', 16 / 8), ('ZeroStrategy', 8 + 8 / 8), (None, 16)])
def test_memory_is_counted_without_a_model(strategy, needed, eight, monkeypatch):
    cfg = config('mmseg/upernet_swinv2_mini.py', launcher='pytorch')
    if strategy:
        cfg.strategy = dict(type=f'mmswinv2.{strategy}')
    parameters = sum(p.numel() for p in build(cfg).parameters())
    for name, value in dict(is_available=lambda: True, current_device=lambda: 0, get_device_properties=lambda i: total
                            ).items():
        monkeypatch.setattr(torch.cuda, name, value)
    total = SimpleNamespace(total_memory=needed * parameters)
    assert list(runner.too_little_memory(cfg)) == []
    total.total_memory -= 1
    fault, = runner.too_little_memory(cfg)
    assert re.match(r'each GPU must hold 0.\d GiB of weights, gradients and states of AdamW', fault)


@pytest.mark.parametrize('strategy, several, kind', [
    (True, True, FlexibleRunner), (True, False, MMEngineRunner), (False, True, MMEngineRunner)])
def test_the_runner_is_mmengine_s(strategy, several, kind, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    made = []
    for one in (FlexibleRunner, MMEngineRunner):
        monkeypatch.setattr(one, 'from_cfg', classmethod(lambda cls, cfg: made.append(cls) or SimpleNamespace(test=7)))
    cfg = Config(dict(launcher='pytorch' if several else 'none', **(
        dict(strategy=dict(type='mmswinv2.FSDPStrategy')) if strategy else {})))
    assert Runner.from_cfg(cfg).test == 7 and made == [kind]
