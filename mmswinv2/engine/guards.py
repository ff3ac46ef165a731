"""Hooks that stop a run before it goes wrong: another batch than the recipe's, heads of other classes, numbers that are
not finite.
"""
from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from mmengine import dist
from mmengine.device import get_device
from mmengine.hooks import Hook
from torch import Tensor, nn

from ..core.checks import check_bool, check_int, first
from ..core.weights import not_finite
from ..registry import HOOKS

HEADS = {'bbox_head', 'mask_head', 'panoptic_head', 'decode_head', 'auxiliary_head'}  # a row per class


def accumulative_counts(optim_wrapper) -> int:
    """Batches to a step of the optimizer, from an optimizer wrapper or its config.

    Raises:
        ValueError: if it is no integer >= 1.
    """
    counts = optim_wrapper.get('accumulative_counts', 1) if isinstance(optim_wrapper, Mapping) else getattr(
        optim_wrapper, '_accumulative_counts', 1)
    return check_int('optim_wrapper.accumulative_counts', counts, minimum=1)


def wrong_batch(scaling: Mapping, processes: int, images: int, counts: int) -> str:
    """What is wrong with a batch, or nothing.

    Args:
        scaling: ``auto_scale_lr`` of the config.
        processes: Those that train.
        images: On each, in a batch.
        counts: Batches to a step of the optimizer.
    """
    base, scaled = scaling.get('base_batch_size'), scaling.get('enable', False)
    batch = processes * images * counts
    found = f'{batch}: {processes} x {images} x {counts} (processes x images on each x ' \
        'optim_wrapper.accumulative_counts)'
    if base is None or batch == base and not scaled or scaled and counts == 1:
        return ''
    if scaled:
        return ('auto_scale_lr.enable must be False where batches are accumulated, since it does not count them; the '
                f'batch is {found}, the recipe is for {base}')
    fits = base // (processes * images)
    way = f'optim_wrapper.accumulative_counts={fits}' if fits * processes * images == base else \
        'train_dataloader.batch_size and optim_wrapper.accumulative_counts'
    return (f'the batch must be {base} images, which learning rate and schedule are for, got {found}. To fix this, '
            f'pass --cfg-options {way}; auto_scale_lr.enable=True scales the rate, not the length of an '
            'iteration-based schedule; default_hooks.batch_size.allow_other=True takes it as it is')


@HOOKS.register_module()
class BatchSizeHook(Hook):
    """Refuses to train with a batch other than the recipe's, ``auto_scale_lr.base_batch_size``.

    The batch is processes x images on each x ``optim_wrapper.accumulative_counts``. A config without
    ``auto_scale_lr.base_batch_size`` trains with any batch.

    Args:
        allow_other: Trains with another batch and the unchanged rate; the log says so.

    Raises:
        ValueError: if ``allow_other`` is no bool; before training, if the batch differs and the rate is not scaled to
            it, or if the rate is scaled and batches are accumulated: mmengine scales by processes x images alone.
    """

    priority = 'VERY_HIGH'

    def __init__(self, allow_other: bool = False) -> None:
        self.allow_other = check_bool('allow_other', allow_other)

    def before_train(self, runner) -> None:
        """Compares the batch with the recipe's."""
        scaling = runner.cfg.get('auto_scale_lr') or {}
        text = wrong_batch(scaling, dist.get_world_size(), runner.train_loop.dataloader.batch_sampler.batch_size,
                           accumulative_counts(runner.optim_wrapper))
        if text and (not self.allow_other or scaling.get('enable')):
            raise ValueError(text)
        if text:
            runner.logger.warning(f'default_hooks.batch_size.allow_other: {text}')


@HOOKS.register_module()
class CheckClassesHook(Hook):
    """Refuses heads of another number of classes than the data set's, and to score predictions without annotations.

    With fewer rows training ends in an index error, on a GPU in an assertion without a name; with more, rows are
    trained for nothing. Data sets without ``metainfo['classes']`` pass.

    Raises:
        ValueError: before training, validation or testing, if a head has another number, or ``ann_file`` lacks what
            the evaluator needs.
    """

    def before_train(self, runner) -> None:
        """Checks with the data sets of training and validation."""
        check_heads(runner.model, runner.train_loop.dataloader.dataset)
        if getattr(runner, 'val_loop', None) is not None:
            self.before_val(runner)

    def before_val(self, runner) -> None:
        """Checks with the data set of validation."""
        check_heads(runner.model, runner.val_loop.dataloader.dataset)
        check_evaluator(runner.val_loop)

    def before_test(self, runner) -> None:
        """Checks with the data set of the test."""
        check_heads(runner.model, runner.test_loop.dataloader.dataset)
        check_evaluator(runner.test_loop)


def check_evaluator(loop) -> None:
    """Checks that a checked data set has what mmdet's metrics need.

    Raises:
        ValueError: if it has no annotations to score predictions with, or no categories to write them with.
    """
    dataset = loop.dataloader.dataset
    if getattr(dataset, 'parts', None) is None:
        return
    for metric in loop.evaluator.metrics:
        if getattr(metric, 'format_only', None) is False and 'annotations' not in dataset.parts:
            raise ValueError(f'{dataset.ann_file} must have annotations of metainfo.classes for '
                             f'{type(metric).__name__}, or the evaluator format_only=True and outfile_prefix, which '
                             'write predictions alone')
        if getattr(metric, 'format_only', None) and 'categories' not in dataset.parts:
            raise ValueError(f'{dataset.ann_file} must have categories, whose ids format_only=True writes')


def check_heads(model: nn.Module, dataset) -> None:
    """Compares the heads of a detector or segmentor with a data set.

    Raises:
        ValueError: if one has another number of classes.
    """
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if classes is None:
        return
    for name, head in model.named_modules():
        number = getattr(head, 'num_classes', None)
        if isinstance(number, int) and HEADS & set(name.split('.')) and number != len(classes):
            raise ValueError(f'num_classes of {name} must be {len(classes)}, as many as the data set has classes '
                             f'({first(list(classes))}), got {number}')


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Raises if a loss, a gradient at the optimizer's step, or a weight is infinite or NaN on any process.

    Weights are checked before training, validation and tests, whoever loaded them. Buffers are not checked: some models
    keep infinities in them, as masks. All processes raise together, so none waits for another. Under a loss scale,
    steps with such gradients are skipped, as intended there; too many in a row raise.

    Args:
        max_skipped: Steps in a row that a loss scale may skip, >= 0. A dynamic scale halves itself at each.

    Raises:
        ValueError: if ``max_skipped`` is no integer >= 0.
        FloatingPointError: in training; the message has the iteration, what is not finite, and the batch's images.
        ValueError: before training, validation and tests; the message has the number of such weights and first names.
    """

    priority = 'VERY_HIGH'

    def __init__(self, max_skipped: int = 30) -> None:
        self.max_skipped = check_int('max_skipped', max_skipped, minimum=0)
        self.skipped = 0
        self.handles: list = []

    def before_train(self, runner) -> None:
        """Checks the weights, and registers hooks on the model's losses and the optimizers' steps."""
        self._check_weights(runner, 'training')
        self.runner = runner
        wrappers = runner.optim_wrapper
        wrappers = list(wrappers.values()) if hasattr(wrappers, 'values') else [wrappers]
        self.scaled = any(getattr(getattr(w, 'loss_scaler', None), 'is_enabled', lambda: False)() for w in wrappers)
        self.handles = [runner.model.register_forward_hook(self._check_losses, with_kwargs=True),
                        *(w.optimizer.register_step_pre_hook(self._check_gradients) for w in wrappers)]

    def before_val(self, runner) -> None:
        """Checks the weights."""
        self._check_weights(runner, 'validation')

    def before_test(self, runner) -> None:
        """Checks the weights."""
        self._check_weights(runner, 'a test')

    def after_train(self, runner) -> None:
        """Removes the hooks."""
        for handle in self.handles:
            handle.remove()

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Resets the images and the step of the iteration."""
        self.images, self.stepped = [], False

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Counts steps that a loss scale skipped."""
        if not self.scaled or not runner.optim_wrapper.should_update():
            return
        self.skipped = 0 if self.stepped else self.skipped + 1
        if self.skipped > self.max_skipped:
            self._stop(f'the loss scale skipped {self.skipped} steps in a row (max_skipped is {self.max_skipped})')

    @staticmethod
    def _check_weights(runner, what: str) -> None:
        weights = {name: _local(p) for name, p in runner.model.named_parameters()}
        bad = list(dict.fromkeys(itertools.chain(*dist.all_gather_object(not_finite(weights)))))
        if bad:
            raise ValueError(f'the model must have finite weights before {what}, got NaN or infinity in {len(bad)} of '
                             f'{len(weights)}: {first(bad)}')

    def _check_losses(self, model: nn.Module, args: tuple, kwargs: dict, losses) -> None:
        if not model.training or not isinstance(losses, dict):
            return
        samples = kwargs.get('data_samples') or []
        mine = [str(getattr(s, 'img_path', None) or getattr(s, 'img_id', '?')) for s in samples]
        self.images += mine
        if self.scaled:
            return
        bad = [name for name, value in losses.items() if 'loss' in name
               for v in (value if isinstance(value, (list, tuple)) else [value])
               if isinstance(v, Tensor) and not v.isfinite().all()]
        if self._anywhere(bool(bad)):
            self.images = mine  # of several batches to a step, this one
            self._stop(f'{", ".join(dict.fromkeys(bad))} not finite' if bad else '')

    def _check_gradients(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        self.stepped = True
        largest = [torch.linalg.vector_norm(g, float('inf')) for group in optimizer.param_groups
                   for p in group['params'] if (g := _local(p.grad)) is not None and g.numel()]
        mine = bool(largest) and not bool(torch.stack(largest).isfinite().all())
        if self._anywhere(mine):
            bad = [n for n, p in self.runner.model.named_parameters()
                   if (g := _local(p.grad)) is not None and not g.isfinite().all()]
            name = f'the gradient of {bad[0]}{f" and {len(bad) - 1} more" if bad[1:] else ""}' if bad else 'a gradient'
            self._stop(f'{name} not finite' if mine else '')

    @staticmethod
    def _anywhere(bad: bool) -> bool:
        if dist.get_world_size() == 1:
            return bad
        flag = torch.tensor(float(bad), device=get_device())
        dist.all_reduce(flag, 'max')
        return bool(flag)

    def _stop(self, what: str) -> None:
        """Raises on all processes, with the findings of each and the images of those that found something."""
        found = dist.all_gather_object(what and f'{what} (images: {", ".join(self.images) or "unknown"})')
        last = self.runner.message_hub.runtime_info.get('last_ckpt')
        raise FloatingPointError(f'training stops before the step of iteration {self.runner.iter + 1}: '
                                 f'{"; ".join(dict.fromkeys(f for f in found if f))}. The weights are as they were; '
                                 f'the last checkpoint is {last or "not written yet"}')


def _local(gradient: Tensor | None) -> Tensor | None:
    """The part of a gradient on this process."""
    return gradient.to_local() if hasattr(gradient, 'to_local') else gradient
