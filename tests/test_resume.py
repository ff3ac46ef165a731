"""What is resumed is what was interrupted: position in the data, random draws, optimizer, schedule, averages."""
import multiprocessing
import os
import random
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import toy
from helpers.bad_files import cut, flip
from mmswinv2.engine import checkpoints
from mmswinv2.engine.loops import Position, ResumableBatches, make_resumable, seed

pytestmark = pytest.mark.mmengine

RUNS = {
    'iterations': dict(iters=8),
    'iterations, epochs of five batches': dict(iters=8, sampler='DefaultSampler'),
    'two workers': dict(iters=8, workers=2),
    'two workers, epochs of five batches': dict(iters=8, workers=2, sampler='DefaultSampler'),
    'accumulation': dict(iters=8, accumulate=2),
    'accumulation over five batches of an epoch': dict(iters=8, accumulate=2, sampler='DefaultSampler', workers=2),
    'accumulation, epochs': dict(epochs=3, accumulate=2, sampler='DefaultSampler', interval=1),
    'averaged weights': dict(iters=8, hooks=[dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=.1)]),
    'no seed': dict(iters=8, seed=None),
    'epochs': dict(epochs=2, sampler='DefaultSampler', by_epoch=True, interval=1),
    'within an epoch': dict(epochs=2, sampler='DefaultSampler', interval=3),
    'within an epoch, two workers, last batch small': dict(epochs=3, sampler='DefaultSampler', interval=2, workers=2,
                                                           length=9),
}


def weights(folder, name):
    checkpoint = torch.load(folder / name, weights_only=False)
    return {**checkpoint['state_dict'], **{f'ema.{k}': v for k, v in checkpoint.get('ema_state_dict', {}).items()}}


class Killed(Exception):
    pass


class Kill(toy.Toy):
    """Stops at a forward pass, as a killed process does."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def forward(self, *args, **kwargs):
        if self.calls == self.at:
            raise Killed
        return super().forward(*args, **kwargs)


@pytest.mark.parametrize('name', RUNS)
@pytest.mark.parametrize('at', [3, 7])
def test_interrupted_equals_straight(name, at, tmp_path):
    options = RUNS[name]
    straight = toy.runner(tmp_path / 'a', **options)
    if options.get('seed', 7) is None:  # a run of its own draws its own: the checkpoint of the first brings its seed
        options = dict(options, seed=straight.seed)
    straight.train()
    torch.manual_seed(0)
    with pytest.raises(Killed):
        toy.runner(tmp_path / 'b', model=Kill(at), **options).train()
    options = dict(options, seed=None) if name == 'no seed' else options
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    resumed = toy.runner(tmp_path / 'b', resume=True, **options)
    assert (name != 'no seed') == (resumed.seed == straight.seed)
    resumed.train()
    last = Path((tmp_path / 'a' / 'last_checkpoint').read_text()).name
    expected, got = weights(tmp_path / 'a', last), weights(tmp_path / 'b', last)
    assert expected.keys() == got.keys()
    assert [k for k, v in expected.items() if not torch.equal(v, got[k])] == []
    assert straight.model.seen[-len(resumed.model.seen):] == resumed.model.seen
    saved = at >= options.get('accumulate', 1) * (5 if options.get('by_epoch') else options.get('interval', 2))
    assert (len(resumed.model.seen) < len(straight.model.seen)) == saved  # what was computed is not again


def test_an_iteration_is_a_step_of_the_optimizer(tmp_path):
    """Of as many batches as are accumulated: schedules, intervals and the number of iterations count steps."""
    class Rates(toy.Toy):
        def forward(self, *args, **kwargs):
            rates.append(run.optim_wrapper.optimizer.param_groups[0]['lr'])
            return super().forward(*args, **kwargs)
    rates, steps = [], []
    for folder, options in ('plain', dict(iters=6)), ('three', dict(iters=6, accumulate=3)), (
            'epochs', dict(epochs=3, accumulate=2, sampler='DefaultSampler')):
        run = toy.runner(tmp_path / folder, model=Rates(), **options)
        run.train()
        steps.append(int(run.optim_wrapper.optimizer.state_dict()['state'][0]['step']))
        if folder == 'plain':
            schedule = list(rates)
        elif folder == 'three':
            assert rates[6:] == [r for r in schedule for _ in range(3)]
            assert (tmp_path / folder / 'iter_6.pth').exists() and len(run.model.seen) == 6 * 3 * 2
    assert steps == [6, 6, 3 * 2]  # 5 batches: two steps of two, and one batch left out
    assert run.max_iters == 6 and len(run.model.seen) == 3 * 4 * 2
    logged = (tmp_path / 'epochs' / run.timestamp / 'vis_data' / 'scalars.json').read_text().splitlines()
    assert len(logged) == 6


@pytest.mark.parametrize('counts, options, message', [
    (6, dict(iters=2, sampler='DefaultSampler'), 'must be at most the batches of an epoch, 5, got 6'),
    (1.5, dict(iters=2), 'must be an integer >= 1, got 1.5'),
    (0, dict(epochs=2, sampler='DefaultSampler'), 'must be an integer >= 1, got 0')])
def test_accumulative_counts_are_checked(counts, options, message, tmp_path):
    with pytest.raises(ValueError, match='optim_wrapper.accumulative_counts ' + message):
        toy.runner(tmp_path, accumulate=counts, **options).train()


def _train_slowly(folder):
    """Trains with samples that fill the pipe of a worker."""
    class Large(toy.Draws):
        def __getitem__(self, index):
            return dict(super().__getitem__(index), data_samples=np.zeros(10**6))

    class Slow(toy.Toy):
        def forward(self, *args, **kwargs):
            (folder / 'workers').write_text(' '.join(str(p.pid) for p in multiprocessing.active_children()))
            time.sleep(60)
    toy.runner(folder, iters=8, workers=2, model=Slow(), dataset=Large()).train()


def test_workers_end_with_a_killed_process(tmp_path):
    """Otherwise they wait for ever to hand over samples, and each kill leaves some."""
    process = multiprocessing.get_context('fork').Process(target=_train_slowly, args=(tmp_path,))
    process.start()
    try:
        pids = wait_for(lambda: (tmp_path / 'workers').exists() and (tmp_path / 'workers').read_text().split(), 60)
        time.sleep(1)  # they fill their pipes
    finally:
        process.kill()
        process.join(20)
    assert len(pids) == 2
    alive = [pid for pid in pids if not wait_for(lambda pid=pid: not Path('/proc', pid).exists(), 10)]
    for pid in alive:
        os.kill(int(pid), signal.SIGKILL)
    assert alive == []


def wait_for(condition, seconds):
    """What a condition gives, as soon as it is true or at the limit."""
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(.1)
    return found


def test_data_do_not_depend_on_workers(tmp_path):
    batches = {}
    for workers in (0, 2):
        loop = toy.runner(tmp_path / str(workers), iters=8, workers=workers, sampler='DefaultSampler')
        loop = loop.build_train_loop(loop._train_loop)
        loop.take_seed()
        batches[workers] = [torch.stack(b['inputs']) for b in loop.dataloader]
        toy.end_workers(loop.dataloader)
    assert len(batches[0]) == 5
    assert all(torch.equal(a, b) for a, b in zip(batches[0], batches[2]))
    assert len({float(v) for b in batches[0] for v in b[:, 1:].flatten()}) == 30  # each draw is another


def test_draws_of_processes_are_those_of_one(monkeypatch):
    """Two processes with a batch of one see the samples and draws of one with a batch of two."""
    def keys(rank, world, size):
        monkeypatch.setattr('mmswinv2.engine.loops.dist.get_dist_info', lambda: (rank, world))
        sampler = list(range(rank, 8, world))
        batches = ResumableBatches(torch.utils.data.BatchSampler(sampler, size, False), Position())
        return [(index, batch.places[i]) for batch in batches for i, index in enumerate(batch)]
    both = keys(0, 2, 1), keys(1, 2, 1)
    assert [pair for pairs in zip(*both) for pair in pairs] == keys(0, 1, 2)


def test_the_same_key_draws_the_same():
    def draw(*key):
        seed(*key, devices=False)
        return random.random(), np.random.rand(), float(torch.rand(()))
    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert all(a != b for a, b in zip(draw(1, 2, 3), draw(1, 2, 4)))


def test_an_iterable_data_set_is_refused():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(range(3))
    with pytest.raises(ValueError, match=r'train_dataloader.dataset must have a length .*iterable data set Stream'):
        make_resumable(torch.utils.data.DataLoader(Stream()), Position())


@pytest.mark.parametrize('harm, why', [
    (Path.unlink, 'is not there'), (cut, 'is damaged: File is not a zip file'),
    (flip, 'is damaged in .*wrong checksum'),
    (lambda path: path.write_bytes(b''), 'is damaged'), (lambda path: path.write_bytes(b'x' * 5000), 'is damaged')])
def test_resume_takes_the_newest_whole_checkpoint(harm, why, tmp_path):
    for name in ('iter_2', 'iter_10', 'iter_9', 'best_coco_bbox_mAP_iter_11'):
        torch.save(dict(state_dict=dict(w=torch.ones(1000))), tmp_path / f'{name}.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_10.pth'))
    assert checkpoints.newest_whole(tmp_path) == (tmp_path / 'iter_10.pth', [])
    harm(tmp_path / 'iter_10.pth')
    path, wrong = checkpoints.newest_whole(tmp_path)
    assert path == tmp_path / 'iter_9.pth'
    assert len(wrong) == 1
    assert re.search(f'iter_10.pth {why}', wrong[0])
    harm(tmp_path / 'iter_9.pth')
    harm(tmp_path / 'iter_2.pth')
    with pytest.raises(ValueError, match=r'resume needs a whole checkpoint in .*, and there is none: .*iter_10.pth is'):
        checkpoints.newest_whole(tmp_path)


@pytest.mark.parametrize('last', [None, '', 'nowhere/iter_7.pth'])
def test_resume_without_a_name(last, tmp_path, caplog):
    toy.runner(tmp_path, iters=4).train()
    if last is None:
        (tmp_path / 'last_checkpoint').unlink()
    else:
        (tmp_path / 'last_checkpoint').write_text(last)
    runner = toy.runner(tmp_path, iters=6, resume=True)
    runner.train()
    assert runner.model.calls == 2
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_6.pth')


def test_resume_says_what_was_wrong(tmp_path, capsys):
    toy.runner(tmp_path, iters=4).train()
    cut(tmp_path / 'iter_4.pth')
    runner = toy.runner(tmp_path, iters=6, resume=True)
    runner.train()
    assert runner.model.calls == 4
    text = ''.join(p.read_text() for p in tmp_path.glob('*/*.log'))
    assert 'iter_4.pth is damaged' in text and f'resuming from {tmp_path / "iter_2.pth"}' in text


def wide():
    model = toy.Toy()
    model.layer = torch.nn.Linear(4, 5)
    return model


def deep():
    model = toy.Toy()
    model.more = torch.nn.Linear(3, 3, bias=False)
    return model


@pytest.mark.parametrize('saved, model, faults', [
    (toy.Toy, wide, r'2 of another shape \(layer.weight \(3, 4\) for \(5, 4\), layer.bias \(3,\) for \(5,\)\)'),
    (toy.Toy, deep, r'1 missing \(more.weight\)'), (deep, toy.Toy, r'1 unexpected \(more.weight\)')])
@pytest.mark.parametrize('named', [True, False])
def test_another_models_checkpoint_is_refused(saved, model, faults, named, tmp_path):
    toy.runner(tmp_path, iters=2, model=saved()).train()
    options = dict(load_from=str(tmp_path / 'iter_2.pth')) if named else {}
    with pytest.raises(ValueError, match='--resume needs a checkpoint of this model, got .*iter_2.pth, of whose '
                                         f'weights are {faults}. To begin with its weights instead: load_from=FILE'):
        toy.runner(tmp_path, iters=4, model=model(), resume=True, **options).train()


def test_weights_alone_are_not_resumed(tmp_path):
    torch.save(dict(state_dict=toy.Toy().state_dict()), tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match='--resume needs the checkpoint of a run, got .*weights.pth, which has '):
        toy.runner(tmp_path, iters=4, resume=True, load_from=str(tmp_path / 'weights.pth')).train()
    toy.runner(tmp_path, iters=1, load_from=str(tmp_path / 'weights.pth')).train()


def test_resume_in_an_empty_folder_begins(tmp_path):
    runner = toy.runner(tmp_path, iters=2, resume=True)
    runner.train()
    assert runner.model.calls == 2
