"""A runner that checks a whole config before it makes anything, and then is mmengine's.

Without it the first error stops a run, each after the model was made: a minute for SwinV2-G.
"""
from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import FlexibleRunner
from mmengine.runner import Runner as _Runner

from ..registry import RUNNERS
from .guards import accumulative_counts, wrong_batch
from .loading import URLS

# by the launcher: the variable with the number of processes
PROCESSES = dict(pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE')
# by a pipeline's step: what it imports
PACKAGES = dict(InstaBoost='instaboostfast', Albu='albumentations', DecordInit='decord', Corrupt='imagecorruptions')
RELEASED = 'https://github.com/SwinTransformer/storage/releases/'  # whose weights have the position bias log_cpb


@RUNNERS.register_module()
class Runner:
    """mmengine's ``Runner``, or its ``FlexibleRunner`` where several processes share by a ``strategy``.

    ``train`` checks the whole config first, and raises one error that lists all that is wrong, before the model is
    made. The runner is made where it is needed, and everything else is its own.
    """

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    @classmethod
    def from_cfg(cls, cfg: Config) -> Runner:
        """A runner for a config, as mmengine's."""
        return cls(cfg)

    def train(self) -> torch.nn.Module:
        """Trains.

        Raises:
            ValueError: if anything of the config is missing or contradicts itself; the message lists all of it.
        """
        found = list(find_faults(self.cfg))
        if found:
            lines = ''.join(f'\n{i}. {text}' for i, text in enumerate(found, 1))
            raise ValueError(f'training cannot begin with this config and this machine; '
                             f'{len(found)} {"things need" if found[1:] else "thing needs"} to be put right:{lines}')
        return self.runner.train()

    @cached_property
    def runner(self) -> _Runner | FlexibleRunner:
        """mmengine's runner."""
        return make_runner(self.cfg)

    def __getattr__(self, name: str):
        if name.startswith('__'):  # asked for by copies before there is a config
            raise AttributeError(name)
        return getattr(self.runner, name)


def make_runner(cfg: Config) -> _Runner | FlexibleRunner:
    """mmengine's runner for a config: the flexible one for several processes with a strategy."""
    if cfg.get('strategy') is None:
        return _Runner.from_cfg(cfg)
    if processes(cfg) > 1:
        return FlexibleRunner.from_cfg(cfg)
    runner = _Runner.from_cfg(cfg)
    print_log(f'{cfg["strategy"]["type"]}: there is one process, so that nothing is divided; --launcher pytorch starts '
              'several', logger='current')
    return runner


def processes(cfg: Config) -> int:
    """How many processes train, by the launcher's variables; they need not have met yet."""
    return int(os.environ.get(PROCESSES.get(cfg.get('launcher') or 'none', ''), 1))


def find_faults(cfg: Config) -> Iterator[str]:
    """What stands between a config and its training, each with what to do.

    Args:
        cfg: The whole config.
    """
    for name in ('train_dataloader', 'val_dataloader'):
        yield from missing_data(name, cfg.get(name) or {})
    for evaluator in parts(cfg.get('val_evaluator')):
        file = evaluator.get('ann_file')
        if isinstance(file, str) and is_local(file) and not Path(file).exists():
            yield f'val_evaluator.ann_file must be a file, got {file}, which does not exist'
    yield from missing_packages(cfg)
    yield from missing_weights(cfg)
    yield from contradictions(cfg)
    yield from wrong_batches(cfg)
    yield from too_little_memory(cfg)


def parts(value) -> Iterator[Mapping]:
    """The dicts in a config, at any depth."""
    if isinstance(value, Mapping):
        yield value
        for inner in value.values():
            yield from parts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from parts(inner)


def is_local(path: str) -> bool:
    """Whether a path is one of this machine's files."""
    return '://' not in path


def missing_data(name: str, loader: Mapping) -> Iterator[str]:
    """Files and folders of a data loader's data sets that are not there."""
    for dataset in parts(loader.get('dataset')):
        root, file, prefix = (dataset.get(key) for key in ('data_root', 'ann_file', 'data_prefix'))
        remote = (dataset.get('backend_args') or {}).get('backend', 'local') != 'local'
        if 'type' not in dataset or remote or not any(map(dataset.__contains__, ('data_root', 'ann_file'))):
            continue
        if root is None and not file:
            yield f'{name}.dataset.data_root must name the data of {dataset["type"]}, got None'
        elif root and is_local(root) and not Path(root).is_dir():
            yield f'{name}.dataset.data_root must be a folder, got {root}, which does not exist'
        else:
            folders = list(prefix.values()) if isinstance(prefix, Mapping) else [prefix]
            for path in dict.fromkeys(str(Path(root or '', p)) for p in (file, *folders)
                                      if isinstance(p, str) and p and is_local(p)):
                if not Path(path).exists():
                    yield f'{name}.dataset needs {path}, which does not exist'


def missing_packages(cfg: Config) -> Iterator[str]:
    """Packages that steps of the pipelines import."""
    steps = {step['type'] for step in parts([cfg.get('train_dataloader'), cfg.get('val_dataloader')])
             if isinstance(step.get('type'), str)}
    for step, package in PACKAGES.items():
        if step in steps and find_spec(package) is None:
            yield f'{step} of the pipeline needs the package {package}: pip install {package}'


def missing_weights(cfg: Config) -> Iterator[str]:
    """Weights that a recipe begins with and that are not named, not there, or of another position bias."""
    recipes = [f'{recipe}, which leaves {file}' for recipe, file in cfg.get('weights_from') or ()]
    ways = f'. These recipes make such weights, in this order: {"; ".join(recipes)}' if recipes else ''
    for part in parts(cfg.get('model')):
        init = part.get('init_cfg')
        if not isinstance(init, Mapping) or init.get('type') != 'Pretrained' or 'checkpoint' not in init:
            continue
        file, bias = init['checkpoint'], part.get('position_bias', 'log_cpb')
        if file is None:
            yield ('model.backbone.init_cfg.checkpoint must name the weights to begin with, a file or URL, got None. '
                   'After --cfg-options: model.backbone.init_cfg.checkpoint=FILE, or model.backbone.init_cfg=None to '
                   f'begin with random ones{ways}')
        elif not file.startswith(URLS) and is_local(file) and not Path(file).expanduser().exists():
            yield f'init_cfg.checkpoint must be a file or URL, got {file}, which does not exist'
        if str(file).startswith(RELEASED) and bias != 'log_cpb':
            yield ('model.backbone.init_cfg.checkpoint must name weights with the position bias '
                   f'{bias}; none were released, and {file} has log_cpb')
    file, hooks = cfg.get('load_from'), cfg.get('default_hooks') or {}
    bias = cfg.get('model', {}).get('backbone', {}).get('position_bias', 'log_cpb')
    if file is None and (hooks.get('convert_checkpoint') or {}).get('required') and not cfg.get('resume'):
        yield ('load_from must name the weights that this recipe fine-tunes, got None. After --cfg-options: '
               'load_from=FILE, or default_hooks.convert_checkpoint.required=False for random ones' + ways)
    elif file is not None and is_local(file) and not Path(file).expanduser().exists():
        yield f'load_from must be a file or URL, got {file}, which does not exist{ways}'
    elif str(file).startswith(RELEASED) and bias != 'log_cpb':
        yield f'load_from must name weights with the position bias {bias}; none were released, and {file} has log_cpb'


def contradictions(cfg: Config) -> Iterator[str]:
    """Options that do not go together, with each other or with this torch and GPU."""
    strategy, hooks = (cfg.get('strategy') or {}).get('type', ''), cfg.get('custom_hooks') or []
    sharded = processes(cfg) > 1 and strategy.endswith('FSDPStrategy')
    wrapper = cfg.get('optim_wrapper') or {}
    if sharded and find_spec('torch.distributed.fsdp') and not hasattr(torch.distributed.fsdp, 'fully_shard'):
        yield (f'strategy {strategy} needs torch >= 2.6, got {torch.__version__}. After --cfg-options: '
               'strategy.type=mmswinv2.ZeroStrategy')
    if strategy and processes(cfg) > 1 and any(hook.get('type', '').endswith('EMAHook') for hook in hooks):
        yield (f'custom_hooks must have no EMAHook beside strategy {strategy}: it would average other weights than '
               'are loaded')
    if sharded and (cfg.get('find_unused_parameters') or (cfg.get('model_wrapper_cfg') or {}).get(
            'find_unused_parameters')):
        yield (f'find_unused_parameters must be False beside strategy {strategy}, which takes parameters without a '
               'gradient as they are')
    dtypes = {part.get('autocast_dtype') for part in parts(cfg.get('model'))}
    if 'float16' in dtypes and not wrapper.get('type', '').endswith('AmpOptimWrapper'):
        yield ('optim_wrapper.type must be AmpOptimWrapper, which scales the loss, beside autocast_dtype=float16, got '
               f'{wrapper.get("type")}')
    if 'bfloat16' in dtypes and torch.cuda.is_available() and not torch.cuda.is_bf16_supported(False):
        yield ('autocast_dtype must be a dtype of this GPU, which has no bfloat16. After --cfg-options: '
               'model.backbone.autocast_dtype=None')


def wrong_batches(cfg: Config) -> Iterator[str]:
    """The batch, if it is not the recipe's."""
    hook = (cfg.get('default_hooks') or {}).get('batch_size')
    images = (cfg.get('train_dataloader') or {}).get('batch_size')
    if hook is not None and images is not None and not hook.get('allow_other'):
        text = wrong_batch(cfg.get('auto_scale_lr') or {}, processes(cfg), images,
                           accumulative_counts(cfg.get('optim_wrapper') or {}))
        if text:
            yield text


def too_little_memory(cfg: Config) -> Iterator[str]:
    """Weights, gradients and AdamW's states, counted on the meta device, if they exceed a GPU's memory."""
    if not torch.cuda.is_available():
        return
    try:
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')), torch.device('meta'):
            model = MODELS.build(cfg.model)
    except Exception:  # the runner that is made next raises it where it arises
        return
    number = sum(p.numel() for p in model.parameters() if p.requires_grad)
    strategy, several = (cfg.get('strategy') or {}).get('type', ''), processes(cfg)
    needed = (16 / several if strategy.endswith('FSDPStrategy') else
              8 + 8 / several if strategy.endswith('ZeroStrategy') else 16) * number / 2**30
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 2**30
    if needed > total:
        yield (f'each GPU must hold {needed:.1f} GiB of weights, gradients and states of AdamW, without activations, '
               f'got {total:.1f} GiB. More GPUs share them by configs/_base_/sharding/fsdp.py; '
               'tools/plan_memory.py CONFIG counts the rest')
