"""Several processes, through configs: DDP, ZeRO-1 and FSDP equal one, and resume from each other's files."""
import sys
from pathlib import Path

import pytest
import torch

from helpers import bad_files, runs
from mmswinv2.engine import read_run
from mmswinv2.hosts import mim_name

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg, pytest.mark.mim]

# what makes one process with a batch of two the same as two with a batch of one: no dropout, no statistics of a batch,
# crops of one size; groups of layers and a clipping that bites
EXACT = runs.several('double_precision') + '''
group_norm = dict(_delete_=True, type='GN', num_groups=4)
model = dict(
    backbone=dict(drop_path_rate=0.),
    decode_head=dict(norm_cfg=group_norm, dropout_ratio=0.),
    auxiliary_head=dict(norm_cfg=group_norm, dropout_ratio=0.))
optim_wrapper = dict(
    paramwise_cfg=dict(layer_decay_rate=0.8, backbone_lr_mult=0.5),
    optimizer=dict(lr=1e-2),
    clip_grad=dict(max_norm=0.5))
'''
VALIDATION = '''
val_dataloader = _base_.test_dataloader
val_evaluator = _base_.test_evaluator
val_cfg = dict(type='ValLoop')
train_cfg = dict(val_interval=2)
default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP'))
'''
ITERATIONS = 3


def write_configs(folder, host, kinds, **options):
    """A config per kind: of DDP, or of a strategy."""
    return {kind: runs.write_config(folder, host, *([] if kind == 'ddp' else [kind]), **options) for kind in kinds}


def assert_same_weights(expected, folder):
    expected, got = (read_run(f / f'iter_{ITERATIONS}.pth')['state_dict'] for f in (expected, folder))
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-8, atol=1e-8, msg=lambda m: f'{folder.name} {name}: {m}')


@pytest.mark.timeout(400)
@pytest.mark.parametrize('kinds, routes', [
    (['ddp', 'fsdp'], [('fsdp', 'ddp', 1)]),
    pytest.param(['ddp', 'zero1', 'fsdp'], [
        ('zero1', 'zero1', 2), ('zero1', 'zero1', 1), ('fsdp', 'fsdp', 2), ('fsdp', 'ddp', 1), ('one', 'fsdp', 2),
        ('fsdp', 'zero1', 2)], marks=pytest.mark.slow)])
def test_processes_equal_one(kinds, routes, tmp_path, mini_data):
    """And each goes on from iteration 2 of each other's, with one process or two; a test runs no code of a file."""
    config = write_configs(tmp_path, 'mmseg', kinds, iters=ITERATIONS, more=EXACT)
    one_each = '--cfg-options', 'train_dataloader.batch_size=1'
    steps = [runs.step('mmseg', config['ddp'], tmp_path / 'one')]
    steps += [runs.step('mmseg', config[kind], tmp_path / kind, *one_each, processes=2) for kind in kinds]
    for source, kind, processes in routes:
        work_dir = tmp_path / f'{source} by {processes} {kind}'
        work_dir.mkdir()
        (work_dir / 'last_checkpoint').write_text(str(tmp_path / source / 'iter_2.pth'))
        steps.append(runs.step('mmseg', config[kind], work_dir, '--resume', *one_each[:2 * processes - 2],
                               processes=processes))
    bad_files.evil(tmp_path / 'evil.pth', tmp_path / 'ran', 'zip')
    steps.append(runs.step('mmseg', config['ddp'], tmp_path / 'test', tmp_path / 'evil.pth', name='test'))
    codes, logs = runs.train_in_turn(tmp_path, steps, data=mini_data('mmseg'))
    *trained, tested = codes
    assert trained == [[0] * step['processes'] for step in steps[:-1]], '\n'.join(log[-3000:] for log in logs)
    for step in steps[1:-1]:
        assert_same_weights(tmp_path / 'one', Path(step['work_dir']))
    assert all('resumed epoch: 0, iter: 2' in log for log in logs[-1 - len(routes):-1])
    assert tested == [1] and 'code in a file is not run' in logs[-1] and not (tmp_path / 'ran').exists(), logs[-1]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_batches_that_are_accumulated_equal_a_larger_one(tmp_path, mini_data):
    """One process four times, and two processes twice with each strategy, give the weights of a batch of four."""
    config = write_configs(tmp_path, 'mmseg', ('ddp', 'zero1', 'fsdp'), iters=ITERATIONS, more=EXACT)

    def step(kind, folder, images, counts, **options):
        return runs.step(
            'mmseg', config[kind], tmp_path / folder, '--cfg-options', f'train_dataloader.batch_size={images}',
            f'optim_wrapper.accumulative_counts={counts}', 'auto_scale_lr.base_batch_size=4',
            'default_hooks.batch_size.type=mmswinv2.BatchSizeHook', **options)
    steps = [step('ddp', 'four', 4, 1), step('ddp', 'one by one', 1, 4),
             *(step(kind, kind, 1, 2, processes=2) for kind in config)]
    codes, logs = runs.train_in_turn(tmp_path, steps, data=mini_data('mmseg'))
    assert codes == [[0], [0], [0, 0], [0, 0], [0, 0]], '\n'.join(log[-3000:] for log in logs)
    for folder in ('one by one', *config):
        assert_same_weights(tmp_path / 'four', tmp_path / folder)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_detectors_are_sharded_and_tested_whole(tmp_path, mini_data):
    """HTC++ with FSDP and ZeRO-1; a loss of one process that is NaN stops both; what they wrote is tested plainly."""
    config = write_configs(tmp_path, 'mmdet', ('fsdp', 'zero1'), iters=2, more=runs.several() + VALIDATION)
    (tmp_path / 'poisoned').mkdir()
    poisoned = runs.write_config(tmp_path / 'poisoned', 'mmdet', 'fsdp', iters=3, more=runs.several('nan_on_rank_1'))
    codes, logs = runs.train_in_turn(tmp_path, [
        *(runs.step('mmdet', config[kind], tmp_path / kind, processes=2) for kind in config),
        runs.step('mmdet', poisoned, tmp_path / 'nan', processes=2),
        runs.step('mmdet', config['fsdp'], tmp_path / 'test', tmp_path / 'fsdp' / 'iter_2.pth', name='test'),
    ], data=mini_data('mmdet'))
    assert codes == [[0, 0], [0, 0], [1, 1], [0]], '\n'.join(log[-3000:] for log in logs)
    assert all('coco/bbox_mAP: ' in log for log in logs[:2])
    assert logs[2].count('FloatingPointError: training stops before the step of iteration 3: s0.loss_cls not finite '
                         '(images: ') == 2, logs[2][-3000:]
    assert 'coco/bbox_mAP' in logs[3] and 'missing keys' not in logs[3] and 'unexpected key' not in logs[3]


@pytest.mark.slow
def test_zero1_saves_as_a_user_starts_it(tmp_path, mini_data):
    """``mim train ... --launcher pytorch``: with mmengine's optimizer this waited for ever at the first checkpoint."""
    config = runs.write_config(tmp_path, 'mmdet', 'zero1', iters=2, more=runs.several())
    mim = Path(sys.executable).parent / 'mim'
    env = runs.environment(mini_data('mmdet'))
    env['PATH'] = f'{mim.parent}:{env["PATH"]}'
    code, output = runs.run([str(mim), 'train', mim_name('mmdet'), str(config), '--launcher', 'pytorch', '--gpus', '2',
                             '--work-dir', str(tmp_path / 'work')], env)
    assert code == 0, output[-4000:]
    optimizer = read_run(tmp_path / 'work' / 'iter_2.pth')['optimizer']
    named = sum(len(g['params']) for g in optimizer['param_groups'])
    assert len(optimizer['state']) == named and all('exp_avg' in s for s in optimizer['state'].values())
