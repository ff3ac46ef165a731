"""A checkpoint hook whose checkpoints survive a killed process or a full disk.

mmengine's hook deletes old checkpoints before it writes the new one, and writes in place. Here a checkpoint is written
to a temporary file, flushed to the disk and renamed; then ``last_checkpoint`` is replaced; then old ones are deleted.
It holds plain values and tensors only, which ``torch.load`` reads with ``weights_only=True``.
"""
from __future__ import annotations

from pathlib import Path

from mmengine import dist
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook as _CheckpointHook

from ..core.checks import first
from ..core.weights.files import put_in_place, remove, replace_text
from ..registry import HOOKS
from .checkpoint import from_plain, to_plain
from .loops import accumulative_counts
from .resume import LAST, check_resumed


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
        backend = self.file_backend
        self.file_backend = late = _LateRemoval(backend)
        try:
            super()._save_best_checkpoint(_Writer(runner, self), metrics)
        finally:
            self.file_backend = backend
        best = getattr(self, 'best_ckpt_path_dict', {}).values()
        new = {self.last_ckpt, getattr(self, 'best_ckpt_path', None), *best}
        for path in late.paths:
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


class _LateRemoval:
    """A file backend that notes removals instead of doing them."""

    def __init__(self, backend) -> None:
        self.backend, self.paths = backend, []

    def __getattr__(self, name: str):
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.paths.append(path)

    rmtree = remove


class _Writer:
    """A runner that saves checkpoints through the hook."""

    def __init__(self, runner, hook: CheckpointHook) -> None:
        self.runner, self.hook = runner, hook

    def __getattr__(self, name: str):
        return getattr(self.runner, name)

    def save_checkpoint(self, *args, filename: str | None = None, **kwargs) -> None:
        out_dir, *rest = args
        self.hook.write(self.runner, out_dir, *([filename] if filename else []), *rest, **kwargs)
