"""A small model and data set of random draws, for runs of mmengine's runner within a test's own process."""
import itertools
import random

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

import mmswinv2.engine.setup  # noqa: F401


class Draws(Dataset):
    """Samples that each generator of random numbers has a part in."""

    def __init__(self, length=10):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        noise = torch.tensor([random.random(), float(np.random.rand()), float(torch.rand(()))])
        return dict(inputs=torch.cat([torch.tensor([float(index)]), noise]))


class Toy(BaseModel):
    """A linear layer with dropout; what it has seen is kept in ``seen``."""

    def __init__(self, poison=None):
        super().__init__()
        with torch.random.fork_rng():  # the model is made before the runner seeds
            torch.manual_seed(0)
            self.layer = nn.Linear(4, 3)
        self.drop = nn.Dropout(.5)
        self.poison = poison  # the forward pass whose loss is NaN
        self.calls, self.seen = 0, []

    def forward(self, inputs, data_samples=None, mode='tensor'):
        """A loss of what the layer and dropout make of the inputs."""
        x = torch.stack(inputs) if isinstance(inputs, list) else inputs
        self.calls += 1
        self.seen += x[:, 0].int().tolist()
        out = self.drop(self.layer(x)).square().mean()
        return dict(loss=out * float('nan') if self.calls == self.poison else out, acc=out.detach())


class _Runner(Runner):
    """mmengine's, without asking the system for its compilers."""

    def _log_env(self, env_cfg):
        pass

    def train(self):
        """Trains, and ends the workers of its loader: the garbage collector takes 10 seconds to."""
        try:
            return super().train()
        finally:
            end_workers(self.train_loop.dataloader)


def end_workers(loader):
    """Ends the persistent workers of a loader."""
    if getattr(loader, '_iterator', None) is not None:
        loader._iterator._shutdown_workers()


COUNT = itertools.count()


def runner(work_dir, *, iters=None, epochs=None, workers=0, sampler='InfiniteSampler', interval=2, by_epoch=False,
           seed=7, model=None, hooks=(), hook='mmswinv2.CheckpointHook', loop='mmswinv2.', accumulate=1, batch_size=2,
           length=10, dataset=None, max_keep=2, clip_grad=None, wrapper='OptimWrapper', checkpoint=None,
           non_finite=dict(type='mmswinv2.NonFiniteHook'), **more):
    """A runner; ``hook`` and ``loop`` choose ours or mmengine's."""
    train = dict(type=f'{loop}IterBasedTrainLoop', max_iters=iters) if iters else dict(
        type=f'{loop}EpochBasedTrainLoop', max_epochs=epochs)
    optimizer = dict(type='AdamW', lr=.01)
    return _Runner(
        model or Toy(), str(work_dir), train_cfg=train,
        train_dataloader=dict(batch_size=batch_size, num_workers=workers, persistent_workers=workers > 0,
                              dataset=dataset or Draws(length), sampler=dict(type=sampler, shuffle=True)),
        optim_wrapper=dict(type=wrapper, optimizer=optimizer, accumulative_counts=accumulate,
                           clip_grad=clip_grad),
        param_scheduler=[dict(type='LinearLR', start_factor=.1, by_epoch=False, begin=0, end=8)],
        default_hooks=dict(checkpoint=checkpoint or dict(type=hook, by_epoch=by_epoch, interval=interval,
                                                         max_keep_ckpts=max_keep),
                           logger=dict(type='LoggerHook', interval=1),
                           convert_checkpoint=dict(type='mmswinv2.ConvertCheckpointHook'),
                           **(dict(non_finite=non_finite) if non_finite else {})),
        custom_hooks=list(hooks), randomness=dict(seed=seed), log_level='WARNING',
        env_cfg=dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0)),
        experiment_name=f'toy_{next(COUNT)}', **more)
