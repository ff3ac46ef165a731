"""The configs: their names, and the models that they describe."""
import copy
import functools
import re
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


def load(name):
    """A config by its name in ``LEAVES``; its host's modules are registered."""
    register(name.split('/')[0])
    return copy.deepcopy(_read(name))


@functools.cache
def _read(name):
    return Config.fromfile(CONFIGS / name)


def build(cfg):
    """The whole model of a config on the meta device."""
    host = cfg.default_scope
    register(host)
    with DefaultScope.overwrite_default_scope(host), torch.device('meta'):
        return import_module(f'{host}.registry').MODELS.build(cfg.model)


def readme_example(host, folder):
    """The config for other classes that the README of a host's configs shows, written into a folder."""
    text, = re.findall(r'\*\*Other classes\*\*.*?```python\n(.+?)```', (CONFIGS / host / 'README.md').read_text(), re.S)
    (folder / 'mine.py').write_text(text.replace("'./", f"'{CONFIGS / host}/"))
    return Config.fromfile(folder / 'mine.py')
