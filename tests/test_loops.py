"""Hooks of the hosts find the training data as in mmengine's loops: what they set has its effect."""
import pytest
import torch
from mmdet.engine.hooks import PipelineSwitchHook
from mmengine.hooks import Hook
from torch.utils.data import ConcatDataset, DataLoader, get_worker_info

from helpers import toy
from mmswinv2.engine.loops import Position, make_resumable

pytestmark = pytest.mark.mmdet

AFTER = 100


def later(sample):
    """The pipeline that is switched to: its samples can be told."""
    sample['inputs'][0] = AFTER
    return sample


class Piped(toy.Draws):
    """Samples that come through a pipeline, as in mmengine's data sets."""

    def __init__(self):
        super().__init__(4)
        self.pipeline = lambda sample: sample

    def __getitem__(self, index):
        assert get_worker_info() is None or isinstance(get_worker_info().dataset, (Piped, ConcatDataset))
        return self.pipeline(super().__getitem__(index))


class SwitchNested(Hook):
    """Finds the data set in another, and restarts workers as mmpretrain's ``SwitchRecipeHook`` does."""

    def before_train_epoch(self, runner):
        if runner.epoch == 1:
            runner.train_dataloader.dataset.datasets[0].pipeline = later
            runner.train_loop.dataloader._iterator = None


class SwitchLoader(Hook):
    """Makes another loader, as mmyolo's ``YOLOXModeSwitchHook`` does."""

    def before_train_epoch(self, runner):
        if runner.epoch >= 1 and not hasattr(self, 'done'):
            self.done = True
            config = dict(runner._train_dataloader, dataset=Piped())
            config['dataset'].pipeline = later
            toy.end_workers(runner.train_loop.dataloader)
            runner.train_loop.dataloader = runner.build_dataloader(config)


HOOKS = dict(pipeline=lambda: PipelineSwitchHook(1, [later]), nested=SwitchNested, loader=SwitchLoader)


def train(folder, hook, **options):
    """Three epochs of four images, of which ``hook`` changes the second and third."""
    data = ConcatDataset([Piped()]) if hook == 'nested' else Piped()
    run = toy.runner(folder, epochs=3, sampler='DefaultSampler', dataset=data, hooks=[HOOKS[hook]()], interval=3,
                     max_keep=-1, **options)
    run.train()
    assert type(run.train_dataloader.dataset) is type(data)
    return run


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('hook', HOOKS)
@pytest.mark.parametrize('loop', ['', 'mmswinv2.'], ids=['mmengine', 'ours'])
def test_what_hooks_set_has_its_effect(loop, hook, workers, tmp_path):
    run = train(tmp_path, hook, loop=loop, workers=workers)
    assert [index == AFTER for index in run.model.seen] == [False] * 4 + [True] * 8


@pytest.mark.parametrize('hook', HOOKS)
def test_and_is_resumed_exactly(hook, tmp_path):
    """From the middle of the second epoch."""
    train(tmp_path, hook)
    expected = torch.load(tmp_path / 'iter_6.pth', weights_only=False)
    run = train(tmp_path, hook, resume=True, load_from=str(tmp_path / 'iter_3.pth'))
    assert run.model.calls == 3
    got = torch.load(tmp_path / 'iter_6.pth', weights_only=False)
    assert all(torch.equal(got['state_dict'][k], v) for k, v in expected['state_dict'].items())


def test_nothing_is_wrapped():
    loader = DataLoader(Piped(), batch_size=2, shuffle=True)
    made = make_resumable(loader, Position())
    assert made.dataset is loader.dataset and made.sampler is loader.sampler
    assert made.batch_sampler is loader.batch_sampler and made.collate_fn is loader.collate_fn
    assert made.batch_size == 2
