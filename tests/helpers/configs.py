"""The configs: their names, and the models that they describe."""
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

PACKAGES = dict(mmdet='mmdet', mmseg='mmseg', mmpretrain='mmpretrain', mmaction2='mmaction')  # by folder of configs
HOSTS = [host for host, package in PACKAGES.items() if find_spec(package)]  # installed
CONFIGS = Path(__file__).parents[2] / 'configs'
LEAVES = sorted(str(p.relative_to(CONFIGS)) for host in HOSTS for p in (CONFIGS / host).glob('*.py'))


def register(host):
    """Imports the modules of a host, by the folder of its configs or its import name."""
    import_module(f'{PACKAGES.get(host, host)}.utils').register_all_modules(init_default_scope=False)


@cache
def read(name):
    """A config by its name in ``LEAVES``, not to be changed."""
    return Config.fromfile(CONFIGS / name)


def load(name):
    """A config by its name in ``LEAVES``; its host's modules are registered."""
    register(name.split('/')[0])
    return Config.fromfile(CONFIGS / name)


def build(cfg):
    """The whole model of a config on the meta device."""
    host = cfg.default_scope
    register(host)
    with DefaultScope.overwrite_default_scope(host), torch.device('meta'):
        return import_module(f'{host}.registry').MODELS.build(cfg.model)
