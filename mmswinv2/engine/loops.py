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
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..core.checks import check_int
from ..registry import LOOPS
from .resume import prepare_resume

DATA, MODEL = 0, 1  # what draws: the first number of a key


class Randomness:
    """Seeds the generators of Python, numpy and torch by a key of whole numbers; as a context, restores them after.

    Args:
        key: The same key gives the same random numbers.
    """

    def __init__(self, *key: int) -> None:
        self.key = key

    def seed(self) -> None:
        """Seeds all of them, those of CUDA devices too."""
        words = [int(w) for w in np.random.SeedSequence(self.key).generate_state(3)]
        random.seed(words[0])
        np.random.seed(words[1])
        torch.manual_seed(words[2])

    def __enter__(self) -> Randomness:
        self.before = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
        words = [int(w) for w in np.random.SeedSequence(self.key).generate_state(3)]
        random.seed(words[0])
        np.random.seed(words[1])
        torch.random.default_generator.manual_seed(words[2])  # a worker must not touch a GPU
        return self

    def __exit__(self, *error: object) -> None:
        for put_back, state in zip((random.setstate, np.random.set_state, torch.random.set_rng_state), self.before):
            put_back(state)


class PlacedDataset(Dataset):
    """A data set indexed by (index, key): each sample is made under the randomness of its key."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: tuple[int, tuple[int, ...]]):
        index, key = place
        with Randomness(*key):
            return self.dataset[index]

    def __getattr__(self, name: str):
        if name.startswith('__') or name == 'dataset':
            raise AttributeError(name)
        return getattr(self.dataset, name)


class PlacedBatches:
    """Batches of (index, key) from a batch sampler, ``counts`` of them per iteration.

    The first ``start`` iterations are skipped, without loading samples. Batches at the end of an epoch that make no
    whole iteration are left out.

    Args:
        batches: A batch sampler with ``batch_size`` and ``sampler``.
        counts: Batches to an iteration.
    """

    def __init__(self, batches, counts: int = 1) -> None:
        self.batches = batches
        self.counts = counts
        self.seed = self.epoch = self.start = 0

    def __len__(self) -> int:
        return len(self.batches) // self.counts * self.counts

    def __getattr__(self, name: str):
        if name.startswith('__') or name == 'batches':
            raise AttributeError(name)
        return getattr(self.batches, name)

    def __iter__(self) -> Iterator[list[tuple[int, tuple[int, ...]]]]:
        rank, world_size = dist.get_dist_info()
        key = DATA, self.seed, self.epoch
        iteration = []
        for number, batch in enumerate(self.batches):
            first = number * self.batches.batch_size
            iteration.append([(index, (*key, (first + i) * world_size + rank)) for i, index in enumerate(batch)])
            if len(iteration) < self.counts:
                continue
            if self.start:
                self.start -= 1
            else:
                yield from iteration
            iteration = []


class PlacedLoader(DataLoader):
    """A data loader over :class:`PlacedBatches` that yields one iteration's input: a batch, or a list of ``counts``.

    Its workers start with the first request.
    """

    def __len__(self) -> int:
        return super().__len__() // self.batch_sampler.counts

    def __iter__(self):
        batches, counts = super().__iter__(), self.batch_sampler.counts
        if counts == 1:
            yield from batches
        else:
            while iteration := list(islice(batches, counts)):
                yield iteration


def placed(loader: DataLoader, counts: int = 1) -> DataLoader:
    """Wraps a loader: samples depend on the seed and their place only, ``counts`` batches come at a time."""
    if isinstance(loader.dataset, IterableDataset):
        raise ValueError('train_dataloader.dataset must have a length and indices, so that training can be resumed at '
                         f'an iteration, got the iterable data set {type(loader.dataset).__name__}')
    return PlacedLoader(
        PlacedDataset(loader.dataset), batch_sampler=PlacedBatches(loader.batch_sampler, counts),
        num_workers=loader.num_workers, collate_fn=loader.collate_fn, pin_memory=loader.pin_memory,
        timeout=loader.timeout, worker_init_fn=partial(_start_worker, loader.worker_init_fn),
        multiprocessing_context=loader.multiprocessing_context, generator=loader.generator,
        prefetch_factor=loader.prefetch_factor, persistent_workers=loader.persistent_workers)


def _start_worker(then: Callable[[int], None] | None, number: int) -> None:
    """Starts a loader's worker, which ends with its parent process, even if that is killed (on Linux).

    Otherwise a worker would wait for ever to hand over samples that nobody takes.
    """
    torch.multiprocessing._prctl_pr_set_pdeathsig(signal.SIGKILL)
    if then is not None:
        then(number)


class _Stream:
    """The endless input of a loop from iteration ``start`` on, epoch after epoch.

    mmengine's loop first requests and discards ``start`` inputs; these are None here.
    """

    def __init__(self, loader: DataLoader, start: int) -> None:
        self.unused = start
        loader.batch_sampler.start = start
        self.batches = self._epochs(loader)

    @staticmethod
    def _epochs(loader: DataLoader) -> Iterator:
        batches = loader.batch_sampler
        while True:
            if hasattr(batches.sampler, 'set_epoch'):
                batches.sampler.set_epoch(batches.epoch)
            yield from loader
            batches.epoch += 1

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
        if isinstance(dataloader, dict):
            dataloader = runner.build_dataloader(dataloader, seed=runner.seed)
        self.counts = accumulative_counts(runner.optim_wrapper)
        if len(dataloader) < self.counts and not isinstance(dataloader.batch_sampler.sampler, InfiniteSampler):
            raise ValueError('optim_wrapper.accumulative_counts must be at most the batches of an epoch, '
                             f'{len(dataloader)}, got {self.counts}')
        super().__init__(runner, placed(dataloader, self.counts), *args, **kwargs)

    def take_seed(self) -> None:
        """Passes the run's seed, which may come from a checkpoint, to the data."""
        seed = [self.runner.seed]
        dist.broadcast_object_list(seed)  # they differ with diff_rank_seed
        self.seed, = seed
        batches = self.dataloader.batch_sampler
        batches.seed = self.seed
        if hasattr(batches.sampler, 'seed'):
            batches.sampler.seed = self.seed

    def run(self):
        """Trains, from the position of the checkpoint."""
        self.take_seed()
        if self.counts > 1:  # mmengine's runner counts iterations here, its wrapper batches
            self.runner.optim_wrapper.initialize_count_status(
                self.runner.model, self._iter * self.counts, self._max_iters * self.counts)
        return super().run()

    def run_iter(self, *args) -> None:
        """Runs one iteration, up to a step of the optimizer, under its own randomness.

        Hooks get its batch, or the list of its batches if there are several, and the means of the logged values.
        """
        *place, batches = args  # mmengine's loop over epochs gives the place in the epoch too
        index, runner = place[0] if place else self._iter, self.runner
        Randomness(MODEL, self.seed, self._iter, dist.get_rank()).seed()
        runner.call_hook('before_train_iter', batch_idx=index, data_batch=batches)
        outputs = [runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
                   for batch in (batches if self.counts > 1 else [batches])]
        runner.call_hook('after_train_iter', batch_idx=index, data_batch=batches, outputs=_mean(outputs))
        self._iter += 1


def accumulative_counts(optim_wrapper) -> int:
    """Batches to a step of the optimizer, from an optimizer wrapper or its config.

    Raises:
        ValueError: if it is no integer >= 1.
    """
    counts = optim_wrapper.get('accumulative_counts', 1) if isinstance(optim_wrapper, Mapping) else getattr(
        optim_wrapper, '_accumulative_counts', 1)
    return check_int('optim_wrapper.accumulative_counts', counts, minimum=1)


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
        self.dataloader_iterator = _Stream(self.dataloader, self._iter)
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
        batches = self.dataloader.batch_sampler
        batches.epoch, batches.start = self._epoch, self.done
        super().run_epoch()

    def run_iter(self, idx: int, data_batch) -> None:
        """Runs one iteration; ``idx`` counts from the beginning of the epoch."""
        super().run_iter(idx + self.done, data_batch)
