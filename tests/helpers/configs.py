"""The configs: their names, and the models that they describe."""
from importlib import import_module
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

CONFIGS = Path(__file__).parents[2] / 'configs'
LEAVES = sorted(str(p.relative_to(CONFIGS)) for host in ('mmdet', 'mmseg') for p in (CONFIGS / host).glob('*.py'))


def load(name):
    """A config by its name in ``LEAVES``; its host's modules are registered."""
    import_module(f'{name.split("/")[0]}.utils').register_all_modules(init_default_scope=False)
    return Config.fromfile(CONFIGS / name)


def build(cfg):
    """The whole model of a config on the meta device."""
    host = cfg.default_scope
    with DefaultScope.overwrite_default_scope(host), torch.device('meta'):
        return import_module(f'{host}.registry').MODELS.build(cfg.model)
