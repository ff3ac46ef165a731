"""Strategies of mmengine's FlexibleRunner that divide optimizer states, or weights and gradients too, among processes.

Both write and read the checkpoints of a plain runner, whole and in one file. So a run can be resumed with another
number of processes, or without the strategy. With one process they do nothing.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine import dist
from mmengine._strategy import DDPStrategy
from mmengine.device import get_device
from mmengine.model import is_model_wrapper, revert_sync_batchnorm
from mmengine.optim import BaseOptimWrapper
from mmengine.runner.checkpoint import weights_to_cpu
from mmengine.utils import apply_to
from torch import Tensor, nn
from torch.distributed.optim import ZeroRedundancyOptimizer as _ZeroRedundancyOptimizer

from ..registry import STRATEGIES

try:
    from torch.distributed.tensor import DTensor, distribute_tensor
except ImportError:  # before torch 2.5
    DTensor = ()


class _WholeCheckpoints(DDPStrategy):
    """Base of the strategies: all processes gather a checkpoint, the main process writes it."""

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        if get_device() == 'cpu' or not dist.is_distributed():
            model = revert_sync_batchnorm(model)
        return self.divide(model) if dist.is_distributed() else model.to(get_device())

    def save_checkpoint(self, filename: str, *, save_optimizer: bool = True, **kwargs) -> None:
        """Writes a checkpoint; all processes call it. Arguments are those of mmengine's strategies."""
        if dist.is_distributed():
            self.gather(save_optimizer)
        super().save_checkpoint(filename, save_optimizer=save_optimizer, **kwargs)


class ZeroRedundancyOptimizer(_ZeroRedundancyOptimizer):
    """torch's ``ZeroRedundancyOptimizer``, built from the name of an optimizer.

    mmengine's own waits for all processes in ``state_dict``, which its runner calls on the main process only.
    """

    def __init__(self, params, optimizer_type: str, **kwargs) -> None:
        super().__init__(list(params), getattr(torch.optim, optimizer_type), **kwargs)


@STRATEGIES.register_module()
class ZeroStrategy(_WholeCheckpoints):
    """ZeRO stage 1: each process keeps the optimizer's states of its share of the parameters.

    The optimizer of ``optim_wrapper``, its groups, learning rates and clipping stay as configured. Weights and
    gradients are whole on each process; gradients are views of the reduced buckets.

    Args:
        kwargs: As for mmengine's ``DDPStrategy``.

    Source:
        arXiv:1910.02054, section 5.1; torch's ``ZeroRedundancyOptimizer``.
    """

    def __init__(self, *, model_wrapper: dict | None = None, **kwargs) -> None:
        super().__init__(model_wrapper=model_wrapper or dict(
            type='MMDistributedDataParallel', broadcast_buffers=False, gradient_as_bucket_view=True), **kwargs)

    def divide(self, model: nn.Module) -> nn.Module:
        """Wraps the model in DistributedDataParallel."""
        return DDPStrategy._wrap_model(self, model)

    def build_optim_wrapper(self, optim_wrapper: dict, model: nn.Module | None = None) -> BaseOptimWrapper:
        """Builds the optimizer of the config, divided among processes."""
        if dist.is_distributed():
            optimizer = dict(optim_wrapper['optimizer'])
            optimizer.update(type=ZeroRedundancyOptimizer, optimizer_type=optimizer['type'])
            optim_wrapper = dict(optim_wrapper, optimizer=optimizer)
        return super().build_optim_wrapper(optim_wrapper, model)

    def gather(self, save_optimizer: bool) -> None:
        """Brings the optimizer's states to the main process."""
        if save_optimizer:
            self.optim_wrapper.optimizer.consolidate_state_dict(to=0)

    def model_state_dict(self) -> dict:
        """The weights under their own names; mmengine's strategy keeps the wrapper's prefix."""
        model = self.model.module if is_model_wrapper(self.model) else self.model
        return weights_to_cpu(model.state_dict())


@STRATEGIES.register_module()
class FSDPStrategy(_WholeCheckpoints):
    """Fully sharded data parallelism: weights, gradients and the optimizer's states are divided among processes.

    Applies torch's ``fully_shard`` to each unit, and to the rest of the model, which stays whole from the forward pass
    to the end of the backward pass. Parameters keep their names and groups: layer-wise learning rates and clipping work
    as without it. mmengine's own strategy flattens them, keeps checkpoints per process, and cannot run on a CPU.

    Args:
        units: Class names of the modules that are gathered one by one.
        kwargs: As for mmengine's ``DDPStrategy``.

    Raises:
        ImportError: if torch has no ``fully_shard`` (2.6 and later have).
        ValueError: if no module of the model is a unit.

    Source:
        arXiv:2304.11277; torch's ``torch.distributed.fsdp.fully_shard``.
    """

    def __init__(self, *, units: Sequence[str] = ('SwinBlock', 'GlobalAttention'), **kwargs) -> None:
        super().__init__(**kwargs)
        self.units = tuple(units)

    def divide(self, model: nn.Module) -> nn.Module:
        """Shards the model in place; it keeps its class and so its ``train_step``."""
        try:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard
        except ImportError as e:
            raise ImportError('mmswinv2.FSDPStrategy needs torch >= 2.6 for torch.distributed.fsdp.fully_shard, got '
                              f'{torch.__version__}') from e
        model = self.convert_model(model)
        found = [m for m in model.modules() if type(m).__name__ in self.units]
        if not found:
            raise ValueError(f'strategy.units must name classes of modules of the model, got {list(self.units)}, and '
                             'it has none of them')
        device = get_device()
        mesh = init_device_mesh(device, (dist.get_world_size(),))
        for module in found:
            fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
        model.to(device)  # what is no parameter
        for module in model.modules():
            if any(isinstance(p, DTensor) for p in module.parameters(recurse=False)):
                module._register_load_state_dict_pre_hook(_divide_weights, with_module=True)
        return model

    def gather(self, save_optimizer: bool) -> None:
        """Brings weights and the optimizer's states to the main process, one after the other."""
        self.whole = dict(model=apply_to(super().model_state_dict(), _is_divided, _gather))
        if save_optimizer:
            self.whole['optimizer'] = apply_to(super().optim_state_dict(), _is_divided, _gather)

    def model_state_dict(self) -> dict:
        """The weights, whole on the main process."""
        return self.whole.pop('model') if dist.is_distributed() else super().model_state_dict()

    def optim_state_dict(self) -> dict:
        """The optimizer's states, whole on the main process."""
        return self.whole.pop('optimizer') if dist.is_distributed() else super().optim_state_dict()

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Loads a process' share of the whole states of a checkpoint."""
        if dist.is_distributed():
            params = [p for group in self.optim_wrapper.optimizer.param_groups for p in group['params']]
            states = {i: {k: _divide(v, params[i]) for k, v in state.items()}
                      for i, state in state_dict['state'].items()}
            state_dict = dict(state_dict, state=states)
        super().load_optim_state_dict(state_dict)


def _is_divided(x: object) -> bool:
    return isinstance(x, DTensor)


def _gather(x: DTensor) -> Tensor | None:
    """The whole tensor on the main process, on the CPU; all processes take part."""
    whole = x.full_tensor()
    return whole.cpu() if dist.is_main_process() else None


def _divide(x: Tensor, like: Tensor) -> Tensor:
    """A process' share of a whole tensor ``x``, if ``like`` is divided and has the shape of ``x``; else ``x``."""
    if not isinstance(like, DTensor) or isinstance(x, DTensor) or not isinstance(x, Tensor) or x.shape != like.shape:
        return x
    return distribute_tensor(x.to(like.device, like.dtype), like.device_mesh, like.placements, src_data_rank=None)


def _divide_weights(module: nn.Module, state_dict: dict, prefix: str, *args) -> None:
    """Replaces a file's whole weights by a process' share of them; a pre-hook of ``load_state_dict``."""
    for name, param in module.named_parameters(recurse=False):
        if prefix + name in state_dict:
            state_dict[prefix + name] = _divide(state_dict[prefix + name], param)
