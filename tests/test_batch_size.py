"""Training begins with the batch that a recipe's learning rate is for, or says why not."""
import re

import pytest

from helpers import toy
from mmswinv2.engine import BatchSizeHook

pytestmark = pytest.mark.mmengine


def run(folder, base=2, enable=False, hook=None, **options):
    """A run of a recipe for ``base`` images; the toy has two on its one process."""
    scaling = dict(enable=enable) if base is None else dict(base_batch_size=base, enable=enable)
    hook = dict(type='mmswinv2.BatchSizeHook', **(hook or {}))
    runner = toy.runner(folder, iters=2, hooks=[hook], cfg=dict(auto_scale_lr=scaling), auto_scale_lr=scaling,
                        **options)
    runner.train()
    return runner


@pytest.mark.parametrize('options', [
    dict(), dict(base=8, accumulate=4), dict(base=None), dict(base=8, batch_size=4, accumulate=2),
    dict(base=64, enable=True), dict(base=64, hook=dict(allow_other=True))])
def test_trains(options, tmp_path):
    runner = run(tmp_path, **options)
    rate = runner.optim_wrapper.optimizer.param_groups[0]['initial_lr']
    assert rate == pytest.approx(.01 * (2 / 64 if options.get('enable') else 1))


@pytest.mark.parametrize('options, found', [
    (dict(base=64), '2: 1 x 2 x 1 (processes x images on each x optim_wrapper.accumulative_counts). Ways out, after '
                    '--cfg-options: optim_wrapper.accumulative_counts=32;'),
    (dict(base=64, accumulate=16), '32: 1 x 2 x 16 (processes x images on each x optim_wrapper.accumulative_counts). '
                                   'Ways out, after --cfg-options: optim_wrapper.accumulative_counts=32;'),
    (dict(base=1), '2: 1 x 2 x 1 (processes x images on each x optim_wrapper.accumulative_counts). Ways out, after '
                   '--cfg-options: train_dataloader.batch_size and optim_wrapper.accumulative_counts;')])
def test_another_batch_is_refused(options, found, tmp_path):
    message = f'the batch must be {options["base"]} images, which learning rate and schedule are for, got {found}'
    with pytest.raises(ValueError, match=re.escape(message)):
        run(tmp_path, **options)
    assert not list(tmp_path.glob('*.pth'))


def test_scaling_does_not_count_what_is_accumulated(tmp_path):
    with pytest.raises(ValueError, match='auto_scale_lr.enable must be False where batches are accumulated.*the batch '
                                         r'is 8: 1 x 2 x 4 .*, the recipe is for 64'):
        run(tmp_path, base=64, enable=True, accumulate=4)


def test_processes_count(tmp_path, monkeypatch):
    monkeypatch.setattr('mmswinv2.engine.guards.dist.get_world_size', lambda: 8)
    run(tmp_path / 'a', base=64, accumulate=4)
    with pytest.raises(ValueError, match='got 16: 8 x 2 x 1 '):
        run(tmp_path / 'b', base=64)


@pytest.mark.parametrize('value', ['True', 1, None])
def test_allow_other_is_checked(value):
    with pytest.raises(ValueError, match=f'allow_other must be a bool, got {value!r}'):
        BatchSizeHook(allow_other=value)
