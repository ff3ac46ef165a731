"""Checks that the batch of all processes is the batch that the recipe's learning rate is for."""
from __future__ import annotations

from mmengine import dist
from mmengine.hooks import Hook

from ..core.checks import check_bool
from ..registry import HOOKS
from .loops import accumulative_counts


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
        base, scaled = scaling.get('base_batch_size'), scaling.get('enable', False)
        if base is None:
            return
        processes, counts = dist.get_world_size(), accumulative_counts(runner.optim_wrapper)
        images = runner.train_loop.dataloader.batch_sampler.batch_size
        found = f'{processes * images * counts}: {processes} x {images} x {counts} (processes x images on each ' \
            'x optim_wrapper.accumulative_counts)'
        if scaled and counts > 1:
            raise ValueError('auto_scale_lr.enable must be False where batches are accumulated, since it does not '
                             f'count them; the batch is {found}, the recipe is for {base}')
        if scaled or processes * images * counts == base:
            return
        if not self.allow_other:
            fits = base // (processes * images)
            way = f'optim_wrapper.accumulative_counts={fits}' if fits * processes * images == base else \
                'train_dataloader.batch_size and optim_wrapper.accumulative_counts'
            raise ValueError(
                f'the batch must be {base} images, which learning rate and schedule are for, got {found}. Ways out, '
                f'after --cfg-options: {way}; auto_scale_lr.enable=True scales the rate, not the length of an '
                'iteration-based schedule; default_hooks.batch_size.allow_other=True takes it as it is')
        runner.logger.warning(f'the batch is {found}; learning rate and schedule are for {base} images')
