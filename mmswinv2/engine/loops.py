"""Training loops that resume exactly: their randomness is a function of the seed and the position.

The random numbers of a sample's augmentations depend on the seed, the epoch and the sample's place in the epoch. Those
of the model in an iteration depend on the seed, the iteration and the process. No generator state is saved and no data
are loaded again: a loop that starts at iteration n computes the same as one that reaches it, with any number of
workers. Samples and their augmentations do not depend on the number of processes either, if the sampler deals them out
in turn, as mmengine's samplers do.
"""
from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from mmengine import dist
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import EMAHook
from mmengine.runner import EpochBasedTrainLoop as _EpochBasedTrainLoop
from mmengine.runner import IterBasedTrainLoop as _IterBasedTrainLoop
from mmengine.runner._flexible_runner import FlexibleRunner
from torch.utils.data import DataLoader, IterableDataset

from ..registry import LOOPS
from .checkpoints import prepare_resume
from .guards import accumulative_counts

DATA, MODEL = 0, 1  # what draws: the first number of a key


def seed(*key: int, devices: bool = True) -> None:
    """Seeds the generators of Python, numpy and torch by a key of whole numbers: the same key, the same random numbers.

    Args:
        key: Whole numbers.
        devices: Whether torch's generators of devices are seeded too. A worker must not touch a GPU.
    """
    words = [int(w) for w in np.random.SeedSequence(key).generate_state(3)]
    random.seed(words[0])
    np.random.seed(words[1])
    (torch if devices else torch.random.default_generator).manual_seed(words[2])


@dataclass
class Position:
    """Where training is in its data."""

    counts: int = 1  # batches to an iteration
    seed: int | None = None  # of the run, as soon as it is known
    epoch: int = 0
    start: int = 0  # iterations of the epoch that are skipped, without loading samples


@dataclass
class SeededBatch(Sequence):
    """The indices of a batch. Taking one seeds the generators by the epoch's key and the sample's place in the epoch.

    A data set that is asked for them makes each sample under its own randomness, in whatever process, unwrapped.
    """

    indices: Sequence
    key: tuple[int, ...]
    places: range

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int):
        index = self.indices[i]
        seed(*self.key, self.places[i], devices=False)
        return index


class ResumableBatches:
    """The batches of an epoch from a position on, as :class:`SeededBatch`.

    Batches at the end of an epoch that make no whole iteration are left out.
    """

    def __init__(self, batches, position: Position) -> None:
        self.batches, self.position = batches, position

    def __len__(self) -> int:
        return len(self.batches) // self.position.counts * self.position.counts

    def __iter__(self) -> Iterator[SeededBatch]:
        rank, world_size = dist.get_dist_info()
        position = self.position
        key = DATA, position.seed or 0, position.epoch
        iteration, first = [], rank
        for batch in self.batches:
            places = range(first, first + len(batch) * world_size, world_size)
            iteration.append(SeededBatch(batch, key, places))
            first = places.stop
            if len(iteration) < position.counts:
                continue
            if position.start:
                position.start -= 1
            else:
                yield from iteration
            iteration = []


class ResumableLoader(DataLoader):
    """A data loader that begins at a position and yields an iteration's input: a batch, or a list of ``counts``.

    Its workers start with the first request.
    """

    position: Position

    @property
    def _index_sampler(self) -> ResumableBatches:  # where torch takes batches of indices from
        return ResumableBatches(self.batch_sampler, self.position)

    def __len__(self) -> int:
        return super().__len__() // self.position.counts

    def __iter__(self):
        batches, counts = super().__iter__(), self.position.counts
        if counts == 1:
            yield from batches
        else:
            while iteration := list(islice(batches, counts)):
                yield iteration


def make_resumable(loader: DataLoader, position: Position) -> ResumableLoader:
    """A loader of the same data set, sampler and options that begins at ``position``, which may change.

    Raises:
        ValueError: if the data set is iterable only, or an epoch has fewer batches than an iteration takes.
    """
    if isinstance(loader.dataset, IterableDataset):
        raise ValueError('train_dataloader.dataset must have a length and indices, so that training can be resumed at '
                         f'an iteration, got the iterable data set {type(loader.dataset).__name__}')
    if len(loader) < position.counts and not isinstance(loader.batch_sampler.sampler, InfiniteSampler):
        raise ValueError('optim_wrapper.accumulative_counts must be at most the batches of an epoch, '
                         f'{len(loader)}, got {position.counts}')
    resumable = ResumableLoader.__new__(ResumableLoader)
    vars(resumable).update(vars(loader), position=position, _iterator=None,
                           worker_init_fn=partial(_start_worker, loader.worker_init_fn))
    return resumable


def _start_worker(then: Callable[[int], None] | None, number: int) -> None:
    """Starts a loader's worker, which ends with its parent process, even if that is killed (on Linux).

    Otherwise a worker would wait for ever to hand over samples that nobody takes.
    """
    torch.multiprocessing._prctl_pr_set_pdeathsig(signal.SIGKILL)
    if then is not None:
        then(number)


class _Stream:
    """The endless input of a loop from its iteration on, epoch after epoch.

    mmengine's loop first requests and discards the inputs before that; these are None here.
    """

    def __init__(self, loop: IterBasedTrainLoop) -> None:
        self.unused = loop.position.start = loop.iter
        self.batches = self._epochs(loop)

    @staticmethod
    def _epochs(loop: IterBasedTrainLoop) -> Iterator:
        while True:
            sampler = loop.dataloader.batch_sampler.sampler
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(loop.position.epoch)
            yield from loop.dataloader
            loop.position.epoch += 1

    def __next__(self):
        if self.unused:
            self.unused -= 1
            return None
        return next(self.batches)

    def skip_iter(self, count: int) -> None:
        """Skips batches; the way in which onedl-mmengine discards them."""
        self.unused -= count


class _Resumable:
    """Base of both loops; see the head of this module."""

    def __init__(self, runner, dataloader: DataLoader | dict, *args, **kwargs) -> None:
        if isinstance(runner, FlexibleRunner) and any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise ValueError('custom_hooks must not have EMAHook with a strategy: FlexibleRunner loads checkpoints '
                             'before the hook makes its averages, and resuming would lose them')
        prepare_resume(runner)
        self.position = Position(accumulative_counts(runner.optim_wrapper))
        super().__init__(runner, dataloader, *args, **kwargs)

    @property
    def dataloader(self) -> ResumableLoader:
        """The loader of the training data. Another one that is set, as some hooks do, resumes exactly too."""
        return self._dataloader

    @dataloader.setter
    def dataloader(self, loader: DataLoader) -> None:
        self._dataloader = make_resumable(loader, self.position)
        self._seed_sampler()

    def _seed_sampler(self) -> None:
        sampler = self.dataloader.batch_sampler.sampler
        if self.position.seed is not None and hasattr(sampler, 'seed'):
            sampler.seed = self.position.seed

    def take_seed(self) -> None:
        """Passes the run's seed, which may come from a checkpoint, to the data."""
        seeds = [self.runner.seed]
        dist.broadcast_object_list(seeds)  # they differ with diff_rank_seed
        self.position.seed, = seeds
        self._seed_sampler()

    def run(self):
        """Trains, from the position of the checkpoint."""
        self.take_seed()
        counts = self.position.counts
        if counts > 1:  # mmengine's runner counts iterations here, its wrapper batches
            self.runner.optim_wrapper.initialize_count_status(
                self.runner.model, self._iter * counts, self._max_iters * counts)
        return super().run()

    def run_iter(self, *args) -> None:
        """Runs one iteration, up to a step of the optimizer, under its own randomness.

        Hooks get its batch, or the list of its batches if there are several, and the means of the logged values.
        """
        *place, batches = args  # mmengine's loop over epochs gives the place in the epoch too
        index, runner = place[0] if place else self._iter, self.runner
        seed(MODEL, self.position.seed, self._iter, dist.get_rank())
        runner.call_hook('before_train_iter', batch_idx=index, data_batch=batches)
        outputs = [runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
                   for batch in (batches if self.position.counts > 1 else [batches])]
        runner.call_hook('after_train_iter', batch_idx=index, data_batch=batches, outputs=_mean(outputs))
        self._iter += 1


def _mean(logged: Sequence[Mapping]) -> Mapping:
    """The mean of each value over the batches that have it."""
    if len(logged) == 1:
        return logged[0]
    found = {name: [values[name] for values in logged if name in values] for values in logged for name in values}
    return {name: sum(values) / len(values) for name, values in found.items()}


@LOOPS.register_module()
class IterBasedTrainLoop(_Resumable, _IterBasedTrainLoop):
    """mmengine's loop, resumed exactly and without reloading the data seen so far.

    Arguments are those of mmengine's ``IterBasedTrainLoop``; iterations are steps of the optimizer.

    Raises:
        ValueError: if the data set is iterable only, or an epoch has fewer batches than an iteration takes.
    """

    def run(self):
        """Trains, from the iteration that a checkpoint set."""
        self.dataloader_iterator = _Stream(self)
        return super().run()


@LOOPS.register_module()
class EpochBasedTrainLoop(_Resumable, _EpochBasedTrainLoop):
    """mmengine's loop, resumed exactly, within an epoch too.

    Arguments are those of mmengine's ``EpochBasedTrainLoop``.

    Raises:
        ValueError: if the data set is iterable only, or an epoch has fewer batches than an iteration takes.
    """

    def run_epoch(self) -> None:
        """Trains for an epoch, or for the rest of one."""
        hub = self.runner.message_hub
        began = hub.get_info('epoch_began') if 'epoch_began' in hub.runtime_info else None
        if began is None or began[0] != self._epoch:
            began = [self._epoch, self._iter]
            hub.update_info('epoch_began', began)
        self.done = self._iter - began[1]
        self.position.epoch, self.position.start = self._epoch, self.done
        super().run_epoch()

    def run_iter(self, idx: int, data_batch) -> None:
        """Runs one iteration; ``idx`` counts from the beginning of the epoch."""
        super().run_iter(idx + self.done, data_batch)
