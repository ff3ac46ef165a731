"""Stops training at a loss or gradient that is not finite, before the optimizer's step spoils the weights.

Weights that are not finite are neither trained nor tested.
"""
from __future__ import annotations

import itertools

import torch
from mmengine import dist
from mmengine.device import get_device
from mmengine.hooks import Hook
from torch import Tensor, nn

from ..core.checks import check_int, first
from ..core.weights import not_finite
from ..registry import HOOKS


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
