"""`mim train`, `--resume` and `mim test` on the demo's config, cut to two steps, as a user types them."""
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.runs import run
from helpers.wheels import Site, build_wheel
from mmswinv2.hosts import mim_name

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg, pytest.mark.mim]

ROOT = Path(__file__).parents[1]
CONFIG = 'configs/mmdet/htc_swinv2_mini.py'
MMDET = mim_name('mmdet')
SHORT = ['param_scheduler.0.end=1', 'param_scheduler.1.begin=1', 'default_hooks.checkpoint.interval=2',
         'default_hooks.logger.interval=1', 'model.backbone.arch.depths=[1,1,1,1]']
# without processes that read data
ALONE = ['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']


def mim(*args, data):
    """Runs mim in the project's folder; an installed plugin needs no PYTHONPATH."""
    command = [Path(sys.executable).parent / 'mim', *map(str, args)]
    env = dict(os.environ, MMSWINV2_MINI_COCO=f'{data}/', MMSWINV2_MINI_ADE20K=f'{data}/',
               PATH=f'{command[0].parent}{os.pathsep}{os.environ["PATH"]}')
    env.pop('PYTHONPATH', None)
    code, output = run([str(part) for part in command], env)
    return SimpleNamespace(returncode=code, stdout=output, stderr='')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('mim')
    data, work_dir = folder / 'data', folder / 'work'
    subprocess.run([sys.executable, ROOT / 'demos' / 'make_mini_coco.py', data, '--train', '4', '--val', '2'],
                   check=True, timeout=120)
    result = mim('train', MMDET, CONFIG, '--work-dir', work_dir, '--cfg-options', 'train_cfg.max_iters=2',
                 'param_scheduler.1.end=2', *SHORT, *ALONE, data=data)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return data, work_dir


def test_training_wrote_a_checkpoint_that_knows_its_windows(trained):
    from mmswinv2.engine import read_run
    state = read_run((trained[1] / 'last_checkpoint').read_text())['state_dict']
    assert state['backbone.pretrained_window_sizes'].tolist() == [[8, 8]] * 4


@pytest.mark.slow
def test_resume_goes_on_where_training_stopped(trained):
    data, work_dir = trained
    result = mim('train', MMDET, CONFIG, '--work-dir', work_dir, '--resume', '--cfg-options',
                 'train_cfg.max_iters=4', 'param_scheduler.1.end=4', *SHORT, data=data)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert 'resumed epoch: 0, iter: 2' in result.stdout + result.stderr
    assert (work_dir / 'iter_4.pth').exists()


@pytest.mark.slow
def test_test_reads_it_with_another_window(trained):
    data, work_dir = trained
    checkpoint = (work_dir / 'last_checkpoint').read_text()
    dumped = work_dir / Path(CONFIG).name
    result = mim('test', MMDET, dumped, '--checkpoint', checkpoint, '--work-dir', work_dir / 'test',
                 '--cfg-options', 'model.backbone.window_size=12', 'model.backbone.arch.depths=[1,1,1,1]', data=data)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    report, = (work_dir / 'test').glob('*/*.json')
    metrics = json.loads(report.read_text())
    assert {'coco/bbox_mAP', 'coco/bbox_mAP_50', 'coco/segm_mAP', 'coco/segm_mAP_50'} <= set(metrics)


@pytest.mark.slow
def test_test_time_augmentation_writes_masks(trained):
    """``--tta`` as typed; results are boxes and run-length encoded masks of the original size."""
    data, work_dir = trained
    checkpoint = (work_dir / 'last_checkpoint').read_text()
    result = mim('test', MMDET, CONFIG, '--checkpoint', checkpoint, '--work-dir', work_dir / 'tta', '--tta',
                 '--cfg-options', 'model.backbone.arch.depths=[1,1,1,1]',
                 f'test_evaluator.outfile_prefix={work_dir / "results"}', data=data)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    masks = json.loads((work_dir / 'results.segm.json').read_text())
    images = {i['id']: i for i in json.loads((data / 'annotations' / 'instances_val.json').read_text())['images']}
    assert masks and all(m['segmentation']['size'] == [images[m['image_id']]['height'], images[m['image_id']]['width']]
                         for m in masks)


@pytest.mark.slow
def test_segmentation_from_training_to_augmentation(tmp_path):
    data, work_dir = tmp_path / 'data', tmp_path / 'work'
    subprocess.run([sys.executable, ROOT / 'demos' / 'make_mini_ade20k.py', data, '--train', '4', '--val', '2'],
                   check=True, timeout=120)
    config = 'configs/mmseg/upernet_swinv2_mini.py'
    small = 'model.backbone.arch.depths=[1,1,1,1]'
    result = mim('train', 'mmseg', config, '--work-dir', work_dir, '--cfg-options', 'train_cfg.max_iters=2', small,
                 'param_scheduler.0.end=1', 'param_scheduler.1.begin=1', 'param_scheduler.1.end=2',
                 'default_hooks.checkpoint.interval=2', data=data)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    checkpoint = (work_dir / 'last_checkpoint').read_text()
    result = mim('test', 'mmseg', config, '--checkpoint', checkpoint, '--work-dir', work_dir / 'test', '--tta',
                 '--out', work_dir / 'out', '--cfg-options', small, 'model.backbone.window_size=12', data=data)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert 'mIoU' in result.stdout + result.stderr
    assert len(list((work_dir / 'out').glob('*.png'))) == 2


@pytest.mark.slow
def test_mim_finds_models_and_tools_of_a_wheel(tmp_path):
    site = Site(build_wheel(tmp_path), tmp_path / 'site')
    found = site.python('-m', 'mim', 'search', 'mmswinv2-plugin', '--config', 'htc_swinv2_l', '--field',
                        'config', 'training_data')
    assert found.returncode == 0, found.stderr
    assert 'configs/mmdet/htc_swinv2_l.py' in found.stdout and 'coco' in found.stdout  # mim writes it small
    config = site.mim / 'configs' / 'mmdet' / 'htc_swinv2_l.py'
    result = site.python('-m', 'mim', 'run', 'mmswinv2-plugin', 'plan_memory', config)
    assert result.returncode == 0 and 'PEAK' in result.stdout, result.stdout + result.stderr
