"""Checkpoints of a run: written so that they survive a killed process or a full disk, and chosen for ``--resume``.

mmengine's hook deletes old checkpoints before it writes the new one, and writes in place. Here a checkpoint is written
to a temporary file, flushed to the disk and renamed; then ``last_checkpoint`` is replaced; then old ones are deleted.
It holds plain values and tensors only, which ``torch.load`` reads with ``weights_only=True``. A run is resumed from the
one that ``last_checkpoint`` names, or the newest whole one.
"""
from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mmengine import dist
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook as _CheckpointHook
from mmengine.logging import HistoryBuffer, print_log

from ..core.checks import first
from ..core.weights.files import put_in_place, remove, replace_text, why_damaged
from ..registry import HOOKS
from .guards import accumulative_counts
from .loading import unwrapped

LAST = 'last_checkpoint'


@HOOKS.register_module()
class CheckpointHook(_CheckpointHook):
    """mmengine's hook, whose files are whole or absent.

    Arguments are those of mmengine's ``CheckpointHook``. On storage that is not local, files are written as usual
    there, and only the order of writing and deleting changes.

    Raises:
        ValueError: before training with mmengine's own loop, whose iterations are batches, if ``interval`` is no
            multiple of ``accumulative_counts``: gradients that are not applied yet are not saved; before a run is
            resumed from another model's checkpoint; after a validation without the value that ``save_best`` names.
        OSError: on every process, if a checkpoint cannot be written; earlier ones stay.
    """

    def before_train(self, runner) -> None:
        """Prepares the folder, and removes files that a killed process left half written."""
        counts = 1 if hasattr(runner.train_loop, 'position') else accumulative_counts(runner.optim_wrapper)
        if not self.by_epoch and self.interval > 0 and self.interval % counts:
            raise ValueError('default_hooks.checkpoint.interval must be a multiple of optim_wrapper.'
                             f'accumulative_counts ({counts}), got {self.interval}')
        super().before_train(runner)
        self.local = isinstance(self.file_backend, LocalBackend)
        if self.local and dist.is_main_process():
            for left in Path(self.out_dir).glob('.*.part'):
                remove(left)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Makes what is beside the weights plain, after all other hooks."""
        to_plain(checkpoint)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Undoes this for the message hub; checks what a run is resumed from, after the hooks that convert it."""
        from_plain(checkpoint)
        if runner._resume:
            check_resumed(runner, checkpoint)

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict) -> None:
        outdated = []
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            outdated = [*self.keep_ckpt_ids, step][:-self.max_keep_ckpts]
            self.keep_ckpt_ids.append(step)  # a deque of max_keep_ckpts
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self.write(runner, self.out_dir, name, self.file_client_args, save_optimizer=self.save_optimizer,
                   save_param_scheduler=self.save_param_scheduler, meta=meta, by_epoch=self.by_epoch,
                   backend_args=self.backend_args, **self.args)
        if dist.is_main_process():
            replace_text(Path(runner.work_dir) / LAST, self.last_ckpt)
            for old in outdated:
                self._remove(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old)))

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        wrong = [name for name in getattr(self, 'key_indicators', []) if name != 'auto' and name not in metrics]
        if wrong:
            raise ValueError('default_hooks.checkpoint.save_best must name a value that the validation gives, got '
                             f'{wrong[0]!r}; it gives {first(metrics, 10)}')
        backend, outdated = self.file_backend, []
        self.file_backend = _Instead(backend, remove=outdated.append, rmtree=outdated.append)
        try:
            super()._save_best_checkpoint(_Instead(runner, save_checkpoint=partial(self.write, runner)), metrics)
        finally:
            self.file_backend = backend
        best = getattr(self, 'best_ckpt_path_dict', {}).values()
        new = {self.last_ckpt, getattr(self, 'best_ckpt_path', None), *best}
        for path in outdated:
            if path not in new:
                self._remove(path)

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):
            self.file_backend.rmtree(path)

    def write(self, runner, out_dir: str, filename: str, *args, **kwargs) -> None:
        """Lets the runner write a checkpoint to a temporary file and renames it; all processes call it.

        Raises:
            OSError: on all processes, if one of them could not write; an old file stays.
        """
        path = Path(out_dir, filename)
        part = path.with_name(f'.{filename}.part')
        error = None
        try:
            if self.local and dist.is_main_process():
                path.parent.mkdir(parents=True, exist_ok=True)
            runner.save_checkpoint(out_dir, part.name if self.local else filename, *args, **kwargs)
        except (OSError, RuntimeError) as e:  # torch has an error of its own for a full disk
            error = e
        errors = dist.all_gather_object(error and f'{type(error).__name__}: {error}')  # and all have written
        failed = [next((e for e in errors if e), None)]
        if self.local and dist.is_main_process():
            try:
                if not failed[0]:
                    put_in_place(part, path)
            except OSError as e:
                failed[0] = f'{type(e).__name__}: {e}'
            finally:
                remove(part)
        dist.broadcast_object_list(failed)
        if failed[0]:
            raise OSError(f'the checkpoint could not be written to {path} ({failed[0]}); those before are as they were'
                          ) from error


def to_plain(checkpoint: dict) -> None:
    """Replaces what a runner keeps beside its weights by plain values, in place.

    ``torch.load`` reads the file then with ``weights_only=True``, its default from 2.6, as do
    ``DetInferencer(weights=FILE)`` and the other inferencers, which take the config from the file.
    """
    for key in ('meta', 'message_hub', 'param_schedulers'):
        if key in checkpoint:
            checkpoint[key] = _plain(checkpoint[key])


def _plain(value):
    if isinstance(value, HistoryBuffer):
        logs, counts = map(torch.from_numpy, value.data)
        return dict(log_history=logs, count_history=counts, max_length=value.max_length)
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, Mapping):
        return {_plain(k): _plain(v) for k, v in value.items()}
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def from_plain(checkpoint: dict) -> None:
    """Makes the message hub's ``HistoryBuffer`` objects again, in place; those of a file of MMEngine stay."""
    scalars = (checkpoint.get('message_hub') or {}).get('log_scalars', {})
    for name, value in scalars.items():
        if isinstance(value, Mapping) and value.keys() == {'log_history', 'count_history', 'max_length'}:
            scalars[name] = HistoryBuffer(*(value[k].cpu().numpy() for k in ('log_history', 'count_history')),
                                          value['max_length'])


class _Instead:
    """An object, with other attributes in place of some."""

    def __init__(self, of: object, **others: object) -> None:
        self.of = of
        vars(self).update(others)

    def __getattr__(self, name: str):
        return getattr(self.of, name)


def why_not_whole(path: Path) -> str | None:
    """Why a run cannot resume from a checkpoint, in words; None if it can. Reads the whole checkpoint.

    Args:
        path: A file that ``torch.save`` wrote, or a folder of them (one per process).
    """
    if path.is_dir():
        files = sorted(f for f in path.rglob('*') if f.suffix in ('.pth', '.pt'))
        return next((f'{f.name} {why}' for f in files if (why := why_not_whole(f))), None) if files else 'is empty'
    if not path.is_file():
        return 'is not there'
    why = why_damaged(path)
    return why and f'is {why}'


def checkpoints_by_age(folder: Path) -> list[Path]:
    """The checkpoints ``NAME_STEP.pth`` in a folder, the last step first; those named ``best_*`` are left out."""
    steps = {}
    for path in folder.glob('*_*.pth'):
        step = re.fullmatch(r'(?!best_).*_(\d+)', path.stem)
        if step:
            steps[path] = int(step[1])
    return sorted(steps, key=lambda p: (-steps[p], p.name))


def newest_whole(work_dir: Path) -> tuple[Path | None, list[str]]:
    """The checkpoint to resume from, and the faults of those that would have come before it.

    Raises:
        ValueError: if there are checkpoints and none is whole.
    """
    named = _named(work_dir / LAST)
    found = [Path(named)] if named else []
    folders = dict.fromkeys([*(p.parent for p in found), work_dir])
    found += [p for folder in folders if folder.is_dir() for p in checkpoints_by_age(folder)]
    wrong: list[str] = []
    for path in dict.fromkeys(found):
        why = why_not_whole(path)
        if why is None:
            return path, wrong
        wrong.append(f'{path} {why}')
    if wrong:
        raise ValueError(f'resume needs a whole checkpoint in {work_dir}, and there is none: {"; ".join(wrong[:5])}')
    return None, []


def prepare_resume(runner) -> None:
    """Makes ``last_checkpoint`` name a whole checkpoint before the runner resumes; logs a warning if it did not.

    Does nothing if the user names a file, or does not resume. All processes call it.

    Raises:
        ValueError: if there are checkpoints in the work directory and none is whole.
    """
    if not runner._resume or runner._load_from is not None:
        return
    answer: list = [None]
    if dist.is_main_process():
        try:
            answer[0] = newest_whole(Path(runner.work_dir))
        except ValueError as e:
            answer[0] = e
    dist.broadcast_object_list(answer)
    if isinstance(answer[0], ValueError):
        raise answer[0]
    path, wrong = answer[0]
    last = Path(runner.work_dir) / LAST
    if path is None:
        print_log(f'resume: there is no checkpoint in {runner.work_dir}: training starts at the beginning', 'current',
                  logging.WARNING)
        return
    if dist.is_main_process() and _named(last) != str(path):
        wrong = wrong or [f'{last} names no checkpoint']
        print_log(f'resume: {"; ".join(wrong[:5])}: resuming from {path}, the newest whole checkpoint', 'current',
                  logging.WARNING)
        replace_text(last, str(path))
    dist.barrier()


def check_resumed(runner, checkpoint: Mapping) -> None:
    """Checks that a run's converted checkpoint is of the runner's model; mmengine would log what differs and go on.

    Raises:
        ValueError: if weights are missing, unexpected or of another shape, or the file is none of a run.
    """
    name = runner._resume if isinstance(runner._resume, str) else runner._load_from or _named(
        Path(runner.work_dir) / LAST)
    way = 'To begin with its weights instead: load_from=FILE after --cfg-options, and no --resume'
    if not {'meta', 'message_hub', 'state_dict'} <= checkpoint.keys():
        raise ValueError(f'--resume needs the checkpoint of a run, got {name}, which has weights alone. {way}')
    model, file = ({k.removeprefix('module.'): tuple(getattr(v, 'shape', ())) for k, v in weights.items()}
                   for weights in (unwrapped(runner.model).state_dict(), checkpoint['state_dict']))
    faults = {
        'of another shape': [f'{k} {file[k]} for {model[k]}' for k in model if file.get(k, model[k]) != model[k]],
        'missing': [k for k in model if k not in file], 'unexpected': [k for k in file if k not in model]}
    if any(faults.values()):
        raise ValueError(f'--resume needs a checkpoint of this model, got {name}, of whose weights are ' + ', '.join(
            f'{len(names)} {fault} ({first(names, 3)})' for fault, names in faults.items() if names) + f'. {way}')


def _named(last: Path) -> str:
    return last.read_text().strip() if last.is_file() else ''
