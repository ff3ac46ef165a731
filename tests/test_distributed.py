"""Several processes, through configs: DDP, ZeRO-1 and FSDP equal one, and resume from each other's files."""
import shutil
import sys
from pathlib import Path

import pytest
import torch

from helpers import runs
from mmswinv2.engine import read_run
from mmswinv2.hosts import mim_name

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg, pytest.mark.mim]

ROOT = Path(__file__).parents[1]
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


def state(folder, name='iter_4.pth'):
    return read_run(folder / name)['state_dict']


@pytest.mark.timeout(400)
@pytest.mark.parametrize('kinds, routes', [
    (['ddp', 'fsdp'], [('fsdp', 'ddp', 1)]),
    pytest.param(['ddp', 'zero1', 'fsdp'], [
        ('zero1', 'zero1', 2), ('zero1', 'zero1', 1), ('fsdp', 'fsdp', 2), ('fsdp', 'ddp', 1), ('one', 'fsdp', 2),
        ('fsdp', 'zero1', 2)], marks=pytest.mark.slow)])
def test_processes_equal_one(kinds, routes, tmp_path, mini_data):
    config = {kind: runs.write_config(tmp_path, 'mmseg', *([] if kind == 'ddp' else [kind]), iters=4, more=EXACT)
              for kind in kinds}
    one_each = '--cfg-options', 'train_dataloader.batch_size=1'
    steps = [runs.step('mmseg', config['ddp'], tmp_path / 'one')]
    steps += [runs.step('mmseg', config[kind], tmp_path / kind, *one_each, processes=2) for kind in config]
    codes, logs = runs.train_in_turn(tmp_path, steps, data=mini_data / 'mmseg')
    assert codes == [[0], *[[0, 0]] * len(kinds)], '\n'.join(log[-3000:] for log in logs)
    expected = state(tmp_path / 'one')
    for kind in config:
        got = state(tmp_path / kind)
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value, rtol=1e-8, atol=1e-8, msg=lambda m: f'{kind} {name}: {m}')

    # each goes on from iteration 2 of each other's, with one process or two
    steps = []
    for i, (source, kind, processes) in enumerate(routes):
        work_dir = tmp_path / f'resumed_{i}'
        work_dir.mkdir()
        shutil.copy(tmp_path / source / 'iter_2.pth', work_dir)
        (work_dir / 'last_checkpoint').write_text(str(work_dir / 'iter_2.pth'))
        steps.append(runs.step('mmseg', config[kind], work_dir, '--resume', *(one_each if processes == 2 else ()),
                               processes=processes))
    codes, logs = runs.train_in_turn(tmp_path, steps, data=mini_data / 'mmseg')
    assert codes == [[0] * processes for *_, processes in routes], '\n'.join(log[-3000:] for log in logs)
    for i, route in enumerate(routes):
        assert 'resumed epoch: 0, iter: 2' in logs[i]
        for name, value in state(tmp_path / f'resumed_{i}').items():
            torch.testing.assert_close(value, expected[name], rtol=1e-8, atol=1e-8,
                                       msg=lambda m: f'{route} {name}: {m}')


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_batches_that_are_accumulated_equal_a_larger_one(tmp_path, mini_data):
    """One process four times, and two processes twice with each strategy, give the weights of a batch of four."""
    config = {kind: runs.write_config(tmp_path, 'mmseg', *fragments, iters=4, more=EXACT)
              for kind, fragments in (('ddp', []), ('zero1', ['zero1']), ('fsdp', ['fsdp']))}

    def options(images, counts):
        return ('--cfg-options', f'train_dataloader.batch_size={images}', f'optim_wrapper.accumulative_counts={counts}',
                'auto_scale_lr.base_batch_size=4', 'default_hooks.batch_size.type=mmswinv2.BatchSizeHook')
    steps = [runs.step('mmseg', config['ddp'], tmp_path / 'four', *options(4, 1)),
             runs.step('mmseg', config['ddp'], tmp_path / 'one by one', *options(1, 4))]
    steps += [runs.step('mmseg', config[kind], tmp_path / kind, *options(1, 2), processes=2) for kind in config]
    codes, logs = runs.train_in_turn(tmp_path, steps, data=mini_data / 'mmseg')
    assert codes == [[0], [0], [0, 0], [0, 0], [0, 0]], '\n'.join(log[-3000:] for log in logs)
    expected = state(tmp_path / 'four')
    for kind in ('one by one', *config):
        for name, value in state(tmp_path / kind).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-8, atol=1e-8, msg=lambda m: f'{kind} {name}: {m}')


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_detectors_are_sharded_and_tested_whole(tmp_path, mini_data):
    """HTC++ with FSDP and ZeRO-1; a loss of one process that is NaN stops both; what they wrote is tested plainly."""
    config = {kind: runs.write_config(tmp_path, 'mmdet', kind, iters=2, more=runs.several() + VALIDATION)
              for kind in ('fsdp', 'zero1')}
    (tmp_path / 'poisoned').mkdir()
    poisoned = runs.write_config(tmp_path / 'poisoned', 'mmdet', 'fsdp', iters=3, more=runs.several('nan_on_rank_1'))
    codes, logs = runs.train_in_turn(tmp_path, [
        *(runs.step('mmdet', config[kind], tmp_path / kind, processes=2) for kind in config),
        runs.step('mmdet', poisoned, tmp_path / 'nan', processes=2)], data=mini_data / 'mmdet')
    assert codes == [[0, 0], [0, 0], [1, 1]], '\n'.join(log[-3000:] for log in logs)
    assert all('coco/bbox_mAP: ' in log for log in logs[:2])
    assert logs[2].count('FloatingPointError: training stops before the step of iteration 3: s0.loss_cls not finite '
                         '(images: ') == 2, logs[2][-3000:]
    test = [sys.executable, str(runs.script('mmdet', 'test')), str(config['fsdp']),
            str(tmp_path / 'fsdp' / 'iter_2.pth'), '--work-dir', str(tmp_path / 'test')]
    code, output = runs.run(test, runs.environment(mini_data / 'mmdet'))
    assert code == 0 and 'coco/bbox_mAP' in output, output[-3000:]
    assert 'missing keys' not in output and 'unexpected key' not in output


@pytest.mark.slow
def test_zero1_saves_as_a_user_starts_it(tmp_path, mini_data):
    """``mim train ... --launcher pytorch``: with mmengine's optimizer this waited for ever at the first checkpoint."""
    config = runs.write_config(tmp_path, 'mmdet', 'zero1', iters=2, more=runs.several())
    mim = Path(sys.executable).parent / 'mim'
    env = runs.environment(mini_data / 'mmdet')
    env['PATH'] = f'{mim.parent}:{env["PATH"]}'
    code, output = runs.run([str(mim), 'train', mim_name('mmdet'), str(config), '--launcher', 'pytorch', '--gpus', '2',
                             '--work-dir', str(tmp_path / 'work')], env)
    assert code == 0, output[-4000:]
    optimizer = read_run(tmp_path / 'work' / 'iter_2.pth')['optimizer']
    named = sum(len(g['params']) for g in optimizer['param_groups'])
    assert len(optimizer['state']) == named and all('exp_avg' in s for s in optimizer['state'].values())
