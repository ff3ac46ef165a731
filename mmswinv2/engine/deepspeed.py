"""ZeRO with DeepSpeed: ``strategy=dict(type='mmswinv2.DeepSpeedStrategy')`` with ``runner_type='FlexibleRunner'``.

mmengine's own strategy needs an ``optim_wrapper`` written for it, writes a folder of shards that ``mim test`` does not
read, reads no plain file, and tests under DeepSpeed. This one takes any of our configs unchanged. Weights and optimizer
stay float32; mixed precision is the backbone's ``autocast_dtype``, so boxes and RoIs keep their precision. Checkpoints
are the same as without DeepSpeed, the optimizer's state included: they can be tested, resumed on another number of
GPUs, or resumed without DeepSpeed.
"""
from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import torch
from mmengine._strategy import SingleDeviceStrategy
from mmengine._strategy.deepspeed import DeepSpeedOptimWrapper, MMDeepSpeedEngineWrapper
from mmengine.device import get_device
from mmengine.dist import init_dist, is_main_process
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..registry import STRATEGIES
from .checkpoint import read_run

# what optim_wrapper and the data loader say, or what the design of this strategy fixes
FIXED = ('train_batch_size', 'train_micro_batch_size_per_gpu', 'gradient_accumulation_steps', 'gradient_clipping',
         'optimizer', 'scheduler', 'fp16', 'bf16', 'amp', 'torch_autocast', 'zero_optimization')


def require_deepspeed():
    """Imports deepspeed.

    Raises:
        ImportError: if it is not installed; the message says what to install.
    """
    try:
        import deepspeed
    except ImportError as e:
        raise ImportError('mmswinv2.DeepSpeedStrategy needs deepspeed for training: pip install deepspeed') from e
    return deepspeed


class ZeroOptimWrapper(DeepSpeedOptimWrapper):
    """mmengine's wrapper of a DeepSpeed engine, with the whole state of the optimizer.

    ``state_dict`` and ``load_state_dict`` use the layout of the wrapped ``torch.optim`` optimizer.

    Args:
        optimizer: Adam or AdamW, before DeepSpeed partitions its parameters.
        accumulative_counts: Batches to a step, as in DeepSpeed's configuration.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, accumulative_counts: int = 1) -> None:
        super().__init__(optimizer)
        self._accumulative_counts = accumulative_counts  # where mmengine looks for it
        self.hooks: OrderedDict[int, Callable] = OrderedDict()
        self.params = [[p for p in group['params'] if p.requires_grad] for group in optimizer.param_groups]

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Tells DeepSpeed the number of past batches, and so its position in an accumulation."""
        self.model.model.micro_steps = init_counts

    def should_update(self) -> bool:
        """Whether the optimizer steps after this batch."""
        return self.model.model.is_gradient_accumulation_boundary()

    def register_step_pre_hook(self, hook: Callable) -> RemovableHandle:
        """Registers ``hook(optimizer, args, kwargs)`` to be called before a step, as in torch's optimizers.

        Its ``optimizer`` has only ``param_groups``, whose ``params`` have only ``grad``: this process's part of the
        gradients, averaged and not clipped.
        """
        handle = RemovableHandle(self.hooks)
        self.hooks[handle.id] = hook
        return handle

    def step(self, **kwargs) -> None:
        """Steps at the end of an accumulation; logs the gradient's norm if gradients are clipped."""
        engine, last = self.model.model, self.should_update()
        if last and self.hooks:
            groups = [dict(params=[SimpleNamespace(grad=g) for g in gradients])
                      for gradients in self.optimizer.averaged_gradients.values()]
            for hook in self.hooks.values():
                hook(SimpleNamespace(param_groups=groups), (), {})
        super().step(**kwargs)
        if last and engine.gradient_clipping() > 0:
            MessageHub.get_current_instance().update_scalar('train/grad_norm', float(engine.get_global_grad_norm()))

    def state_dict(self) -> dict:
        """Gathers the state; all processes must call it, only the main process gets tensors."""
        from deepspeed.utils import safe_get_full_optimizer_state
        sharded = self.optimizer.optimizer
        state, groups, start = {}, [], 0
        for params, group in zip(self.params, sharded.param_groups):
            flat = group['params'][0]  # this process's part of the group
            numbers = list(range(start, start := start + len(params)))
            groups.append({**group, 'params': numbers})
            _link(params, flat, sharded.state)
            for key, value in sharded.state.get(flat, {}).items():
                for i, param in zip(numbers, params):
                    if key != 'step':
                        value = safe_get_full_optimizer_state(param, key)
                    if is_main_process():
                        state.setdefault(i, {})[key] = value.to('cpu', copy=True)
        result = dict(state=state, param_groups=groups)
        if self.base_param_settings is not None:
            result['base_param_settings'] = self.base_param_settings
        return result

    def load_state_dict(self, state_dict: dict) -> None:
        """Loads this process's part of a whole state, of a run with DeepSpeed or without.

        Raises:
            ValueError: if the parameter groups differ.
        """
        from deepspeed.utils import safe_set_full_optimizer_state
        sharded = self.optimizer.optimizer
        sizes, saved = [len(p) for p in self.params], [len(g['params']) for g in state_dict['param_groups']]
        if sizes != saved:
            raise ValueError(f'the optimizer has groups of {sizes} parameters, those of the checkpoint have {saved}')
        entries = [[state_dict['state'].get(i) for i in group['params']] for group in state_dict['param_groups']]
        for params, states, group, new in zip(self.params, entries, sharded.param_groups, state_dict['param_groups']):
            group.update({k: v for k, v in new.items() if k != 'params'})
            flat = group['params'][0]
            known = [s for s in states if s]  # a parameter that never had a gradient has no state without DeepSpeed
            for key in known[0] if known else ():
                if key != 'step':
                    sharded.state[flat].setdefault(key, torch.zeros_like(flat))
                    continue
                step = torch.tensor(max(float(s[key]) for s in known))
                on_device = group.get('fused') or group.get('capturable')
                sharded.state[flat][key] = step.to(flat.device if on_device else 'cpu')
            _link(params, flat, sharded.state)
            for values, param in zip(states, params):
                for key, value in (values or {}).items():
                    if key != 'step':
                        safe_set_full_optimizer_state(param, value.to(param.device), key)
        self.base_param_settings = state_dict.get('base_param_settings', self.base_param_settings)


@STRATEGIES.register_module()
class DeepSpeedStrategy(SingleDeviceStrategy):
    """Trains with ZeRO stage 1 or 2, from the ``optim_wrapper`` of a run without DeepSpeed; tests without DeepSpeed.

    Of ``optim_wrapper``, ``clip_grad`` becomes ``gradient_clipping`` and ``accumulative_counts`` becomes
    ``gradient_accumulation_steps``; its constructor builds the parameter groups.

    Args:
        zero_optimization: DeepSpeed's section of that name; ``stage`` 1 or 2. None: ``dict(stage=1)``.
        config: More of DeepSpeed's configuration, such as ``wall_clock_breakdown``.
        work_dir, experiment_name, env_kwargs, log_kwargs, auto_scale_lr: From the runner, as for mmengine's strategies.

    Raises:
        ValueError: if ``stage`` is not 1 or 2, the optimizer would be offloaded, or ``config`` repeats other options.
    """

    def __init__(self, *, zero_optimization: Mapping | None = None, config: Mapping | None = None,
                 work_dir: str = 'work_dirs', experiment_name: str | None = None, env_kwargs: dict | None = None,
                 log_kwargs: dict | None = None, auto_scale_lr: dict | None = None) -> None:
        zero = dict(zero_optimization or dict(stage=1))
        if zero.get('stage') not in (1, 2):
            raise ValueError(f'strategy.zero_optimization.stage must be 1 or 2, got {zero.get("stage")!r}')
        offloaded = sorted(k for k in zero if 'offload' in k)
        if offloaded:
            raise ValueError(f'strategy.zero_optimization must not offload, got {offloaded}')
        fixed = sorted(set(config or {}) & set(FIXED))
        if fixed:
            raise ValueError(f'strategy.config must not have {fixed}: the batch, the optimizer, clip_grad and '
                             'accumulative_counts come from the config of the run, precision from '
                             'model.backbone.autocast_dtype')
        super().__init__(work_dir=work_dir, experiment_name=experiment_name, env_kwargs=env_kwargs,
                         log_kwargs=log_kwargs, auto_scale_lr=auto_scale_lr)
        self.config = dict(steps_per_print=10**13, **copy.deepcopy(dict(config or {})), zero_optimization=zero)

    def _setup_distributed(self, launcher: str = 'pytorch', backend: str = 'nccl', **kwargs) -> None:
        """Sets up the process group, which DeepSpeed then uses."""
        init_dist(launcher, backend, **kwargs)

    def prepare(self, model: nn.Module | dict, *, optim_wrapper: dict | None = None, param_scheduler=None,
                compile: dict | bool = False, dispatch_kwargs: dict | None = None):
        """Builds the model and, for training, DeepSpeed's engine around it.

        Raises:
            ImportError: if training is asked for and deepspeed is not installed.
            ValueError: if ``optim_wrapper`` has an option that DeepSpeed does not support, or there is no launcher.
        """
        if self._prepared:
            return self._prepared_components()
        self.dispatch_kwargs.update(dispatch_kwargs or {})
        if compile:
            raise ValueError('mmswinv2.DeepSpeedStrategy does not compile, set compile=False')
        if optim_wrapper is not None:
            if not self.distributed:
                raise ValueError('DeepSpeed trains under a launcher, also on one GPU: '
                                 'mim train ... --launcher pytorch --gpus N')
            deepspeed = require_deepspeed()
            optim_wrapper = self._translate(optim_wrapper)
        model = self._init_model_weights(self.build_model(model)).to(get_device())
        if optim_wrapper is None:
            self.model = model if self.distributed else revert_sync_batchnorm(model)
        else:
            self.optim_wrapper = self.build_optim_wrapper(optim_wrapper, model)
            self._scale_lr()
            engine, self.optim_wrapper.optimizer, *_ = deepspeed.initialize(
                model=model, optimizer=self.optim_wrapper.optimizer, config=self.config)
            self.model = self.optim_wrapper.model = MMDeepSpeedEngineWrapper(model=engine)
            # DeepSpeed's optimizer is none of torch's; hooks of the runner ask it for this
            self.optim_wrapper.optimizer.register_step_pre_hook = self.optim_wrapper.register_step_pre_hook
        if param_scheduler is not None:
            self.param_schedulers = self.build_param_scheduler(param_scheduler, self.optim_wrapper)
        self._prepared = True
        return self._prepared_components()

    def _translate(self, optim_wrapper: Mapping) -> dict:
        """Moves DeepSpeed's options into its configuration; returns the others, for the constructor."""
        if not isinstance(optim_wrapper, Mapping):
            raise ValueError(f'optim_wrapper must be a config, got {type(optim_wrapper).__name__}')
        left = copy.deepcopy(dict(optim_wrapper))
        kind = left.pop('type', 'OptimWrapper')
        if getattr(kind, '__name__', kind).rpartition('.')[2] not in ('OptimWrapper', 'DeepSpeedOptimWrapper'):
            raise ValueError(f'optim_wrapper.type must be OptimWrapper with DeepSpeed (no --amp), got {kind!r}; mixed '
                             "precision is model.backbone.autocast_dtype='bfloat16'")
        name = left.get('optimizer', {}).get('type')
        if getattr(name, '__name__', name) not in ('Adam', 'AdamW'):
            raise ValueError(f'optim_wrapper.optimizer.type must be Adam or AdamW with DeepSpeed, got {name!r}')
        counts, clip = left.pop('accumulative_counts', 1), dict(left.pop('clip_grad', None) or {})
        if clip and (set(clip) - {'type', 'max_norm', 'norm_type'} or clip.get('type', 'norm') != 'norm'
                     or clip.get('norm_type', 2) != 2 or 'max_norm' not in clip):
            raise ValueError(f'optim_wrapper.clip_grad must be dict(max_norm=...) with DeepSpeed, got {clip}')
        self.config.update(
            train_micro_batch_size_per_gpu=self.dispatch_kwargs['train_micro_batch_size_per_gpu'],
            gradient_accumulation_steps=counts, gradient_clipping=float(clip.get('max_norm', 0.)))
        return dict(left, type=ZeroOptimWrapper, accumulative_counts=counts)

    def model_state_dict(self) -> dict[str, Tensor]:
        """The whole weights, copied to the CPU; in these stages every process has them."""
        module = getattr(self.model, 'module', self.model)
        return {k: v.detach().to('cpu', copy=True) for k, v in module.state_dict().items()}

    def load_model_state_dict(self, state_dict: dict, **kwargs) -> None:
        """Loads weights into the model and into the parts that ZeRO steps on."""
        super().load_model_state_dict(state_dict, **kwargs)
        if hasattr(self, 'optim_wrapper'):
            self.optim_wrapper.optimizer.refresh_fp32_params()

    def load_checkpoint(self, filename: str, *, callback: Callable | None = None, **kwargs) -> dict:
        """Loads the weights of a plain file; processes do not each read a local file whole into memory."""
        if not Path(filename).is_file():
            return super().load_checkpoint(filename, callback=callback, **kwargs)
        self.logger.info(f'Load checkpoint from {filename}')
        checkpoint = dict(read_run(filename))
        if callback is not None:
            callback(checkpoint)
        state = checkpoint.pop('state_dict', None)
        keywords = {k: v for k, v in kwargs.items() if k in ('strict', 'revise_keys')}
        self.load_model_state_dict(checkpoint if state is None else state, **keywords)
        return checkpoint

    def optim_state_dict(self) -> dict:
        """The optimizer's whole state, gathered by ``save_checkpoint``."""
        return self.__dict__.pop('_gathered')

    def save_checkpoint(self, filename: str, *, save_optimizer: bool = True, **kwargs) -> None:
        """Writes a plain file; all processes must call it, the main process writes."""
        if save_optimizer and hasattr(self, 'optim_wrapper'):
            self._gathered = self.optim_wrapper.state_dict()
        if is_main_process():
            super().save_checkpoint(filename, save_optimizer=save_optimizer, **kwargs)


def _link(params: list[nn.Parameter], flat: Tensor, state: dict) -> None:
    """Lets DeepSpeed find the state of each parameter in the state of its flat group.

    DeepSpeed links them itself only once and too early, after the first group's part of the first step, and so never
    finds the state of other groups (deepspeed 0.19.8, runtime/zero/stage_1_and_2.py, ``_optimizer_step``).
    """
    from deepspeed.utils.mixed_precision_linkage import lazy_init_hp_params_optimizer_state
    lazy_init_hp_params_optimizer_state(params, flat, state)
