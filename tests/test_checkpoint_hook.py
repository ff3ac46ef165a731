"""Checkpoints are whole or absent, whatever happens while they are written."""
import errno
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.fileio.backends import LocalBackend
from mmengine.hooks import Hook

from helpers import toy
from mmswinv2.core.weights import files
from mmswinv2.engine import checkpoints

pytestmark = pytest.mark.mmengine


def names(folder):
    return sorted(p.name for p in folder.iterdir() if p.suffix != '.py' and p.is_file())


def assert_resumable(folder, least):
    """What a run that died leaves: ``last_checkpoint`` names a whole file of at least that iteration."""
    named = Path((folder / 'last_checkpoint').read_text())
    assert checkpoints.why_not_whole(named) is None
    assert torch.load(named, weights_only=False)['meta']['iter'] >= least
    assert checkpoints.newest_whole(folder) == (named, [])


def test_old_ones_go_after_the_new_one_is_there(tmp_path):
    toy.runner(tmp_path, iters=8).train()
    assert names(tmp_path) == ['iter_6.pth', 'iter_8.pth', 'last_checkpoint']
    assert_resumable(tmp_path, 8)
    assert torch.load(tmp_path / 'iter_8.pth', weights_only=False)['message_hub']['runtime_info'][
        'keep_ckpt_ids'] == [6, 8]


class Told(Hook):
    """Tells the message hub things of numpy, as metrics do."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        runner.message_hub.update_info('best_score', np.float32(.5))
        runner.message_hub.update_info('val/precision', dict(rows=[np.arange(3.), np.bool_(True)]))


def test_torch_reads_a_run_as_weights_only_and_a_run_goes_on_from_it(tmp_path):
    """As mmengine does without this package; the files of its own hook it cannot read."""
    first = toy.runner(tmp_path, iters=2, hooks=[Told()])
    first.train()
    contents = torch.load(tmp_path / 'iter_2.pth', weights_only=True)
    info = contents['message_hub']['runtime_info']
    assert info['best_score'] == .5 and info['val/precision'] == dict(rows=[[0., 1., 2.], True])
    assert type(info['best_score']) is float and 'cfg' in info
    second = toy.runner(tmp_path, iters=4, resume=True, load_from=str(tmp_path / 'iter_2.pth'))
    second.load_or_resume()
    for name, history in first.message_hub.log_scalars.items():
        for old, new in zip(history.data, second.message_hub.log_scalars[name].data, strict=True):
            assert old.dtype == new.dtype and (old == new).all()
    assert len(second.message_hub.log_scalars['train/loss'].data[0]) == 2


class Dies(BaseException):
    """No ``except Exception`` and no clean-up on the way catches a kill."""


# each place where a process can die while it writes its fourth checkpoint
PLACES = [('mmengine.runner.runner.save_checkpoint', 'before'), ('mmengine.runner.runner.save_checkpoint', 'half'),
          ('mmengine.runner.runner.save_checkpoint', 'after'),
          ('mmswinv2.engine.checkpoints.put_in_place', 'before'),
          ('mmswinv2.engine.checkpoints.put_in_place', 'after'),
          ('mmswinv2.engine.checkpoints.replace_text', 'before'),
          ('mmswinv2.engine.checkpoints.replace_text', 'after'),
          ('mmengine.fileio.backends.LocalBackend.remove', 'before'),
          ('mmengine.fileio.backends.LocalBackend.remove', 'after')]


@pytest.mark.parametrize('max_keep', [1, 2])
@pytest.mark.parametrize('place, when', PLACES)
def test_a_process_that_dies_leaves_a_whole_checkpoint(place, when, max_keep, tmp_path, monkeypatch):
    module, _, name = place.rpartition('.')
    owner = LocalBackend if module.endswith('LocalBackend') else import_module(module)
    real, calls = getattr(owner, name), []
    at = 4 if name != 'remove' else 4 - max_keep

    def dying(*args, **kwargs):
        calls.append(args)
        if len(calls) != at:
            return real(*args, **kwargs)
        if when == 'after':
            real(*args, **kwargs)
        if when == 'half':
            Path(args[1]).write_bytes(b'PK\x03\x04 half of a checkpoint')
        raise Dies
    monkeypatch.setattr(owner, name, dying)
    monkeypatch.setattr(checkpoints, 'remove', lambda path: None)  # nothing is cleaned up either
    with pytest.raises(Dies):
        toy.runner(tmp_path, iters=8, max_keep=max_keep).train()
    monkeypatch.undo()
    assert_resumable(tmp_path, 6)
    runner = toy.runner(tmp_path, iters=8, max_keep=max_keep, resume=True)
    runner.train()
    assert runner.model.calls <= 2
    assert_resumable(tmp_path, 8)
    assert set(names(tmp_path)) >= {'iter_6.pth', 'iter_8.pth'} if max_keep == 2 else {'iter_8.pth'}
    assert not list(tmp_path.glob('.*'))


class Score(Hook):
    """Reports a better result each time."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        hook = next(h for h in runner.hooks if isinstance(h, checkpoints.CheckpointHook))
        if runner.iter % 2:
            hook._save_best_checkpoint(runner, dict(score=float(runner.iter)))


def test_the_best_one_is_there_until_a_better_one_is(tmp_path, monkeypatch):
    best = dict(type='mmswinv2.CheckpointHook', by_epoch=False, interval=2, max_keep_ckpts=2, save_best='score',
                rule='greater')
    seen = []
    real = files.put_in_place
    monkeypatch.setattr(checkpoints, 'put_in_place', lambda part, path: (
        seen.append(sum(p.name.startswith('best_') for p in tmp_path.iterdir())), real(part, path)))
    runner = toy.runner(tmp_path, iters=8, hook=None, checkpoint=best, hooks=[Score()])
    runner.train()
    assert min(seen[2:]) >= 1
    assert [n for n in names(tmp_path) if n.startswith('best_')] == ['best_score_iter_7.pth']


def test_a_best_value_that_is_not_there_is_named(tmp_path):
    best = dict(type='mmswinv2.CheckpointHook', by_epoch=False, interval=1, save_best='coco/bbox_mAP')
    with pytest.raises(ValueError, match="save_best must name a value that the validation gives, got 'coco/bbox_mAP'; "
                                         'it gives score'):
        toy.runner(tmp_path, iters=2, checkpoint=best, hooks=[Score()]).train()
    assert_resumable(tmp_path, 1)


def test_interval_and_accumulation(tmp_path):
    with pytest.raises(ValueError, match=r'interval must be a multiple of .*accumulative_counts \(3\), got 2'):
        toy.runner(tmp_path, iters=8, accumulate=3, loop='').train()


def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    """By a write that fails; a real full disk is in the test below."""
    toy.runner(tmp_path, iters=4).train()

    def full(checkpoint, filename, *args, **kwargs):
        Path(filename).write_bytes(b'some')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr('mmengine.runner.runner.save_checkpoint', full)
    with pytest.raises(OSError, match=r'the checkpoint could not be written to .*iter_6.pth \(OSError: .*No space left '
                                      r'on device\); those before are as they were'):
        toy.runner(tmp_path, iters=8, resume=True).train()
    assert_resumable(tmp_path, 4)
    assert not list(tmp_path.glob('.*'))


SMALL_DISK = '''
mount -t tmpfs -o size=3m tmpfs {folder} && exec {python} -c '
import sys
sys.path.insert(0, "tests")
from helpers import toy
import torch
class Large(toy.Toy):
    def __init__(self):
        super().__init__()
        self.more = torch.nn.Parameter(torch.zeros(100_000))  # a checkpoint of 0.4 MB: old ones are kept
try:
    toy.runner("{folder}/work", iters=40, model=Large(), max_keep=-1).train()
except OSError as e:
    print(e)
from pathlib import Path
from mmswinv2.engine import checkpoints
path, wrong = checkpoints.newest_whole(Path("{folder}/work"))
print("resumable", path.name, wrong, [p.name for p in Path("{folder}/work").glob(".*")])
'
'''


def test_a_disk_that_is_really_full(tmp_path):
    script = SMALL_DISK.format(folder=tmp_path, python=sys.executable)
    unshare = ['unshare', '--mount', '--map-root-user']
    if subprocess.run([*unshare, 'mount', '-t', 'tmpfs', 'tmpfs', str(tmp_path)], capture_output=True).returncode:
        pytest.skip('a small file system cannot be mounted here (unshare --mount --map-root-user)')
    result = subprocess.run([*unshare, 'sh', '-c', script], capture_output=True, text=True, timeout=200)
    assert 'could not be written' in result.stdout and 'No space left on device' in result.stdout, result
    last = result.stdout.splitlines()[-1]
    assert last.startswith('resumable iter_') and last.endswith('[] []'), result.stdout


def test_text_is_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / 'last_checkpoint'
    files.replace_text(path, 'old')
    monkeypatch.setattr(files, '_sync', lambda p: (_ for _ in ()).throw(OSError('no')))
    with pytest.raises(OSError, match='no'):
        files.replace_text(path, 'new')
    assert path.read_text() == 'old' and names(tmp_path) == ['last_checkpoint']


def test_a_folder_of_files_is_checked_and_moved(tmp_path):
    part = tmp_path / '.iter_2.pth.part'
    part.mkdir()
    assert checkpoints.why_not_whole(part) == 'is empty'
    for rank in range(2):
        torch.save(dict(w=torch.ones(1000)), part / f'rank{rank}.pth')
    (tmp_path / 'iter_2.pth').mkdir()
    files.put_in_place(part, tmp_path / 'iter_2.pth')
    assert checkpoints.why_not_whole(tmp_path / 'iter_2.pth') is None
    (tmp_path / 'iter_2.pth' / 'rank1.pth').write_bytes(b'')
    assert checkpoints.why_not_whole(tmp_path / 'iter_2.pth').startswith('rank1.pth is damaged')
