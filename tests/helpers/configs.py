"""The configs: their names, and the models that they describe."""
import copy
import re
from functools import cache
from importlib import import_module
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

PACKAGES = dict(mmdet='mmdet', mmseg='mmseg', mmpretrain='mmpretrain', mmaction2='mmaction')  # by folder of configs
HOSTS = [host for host, package in PACKAGES.items() if find_spec(package)]  # installed
CONFIGS = Path(__file__).parents[2] / 'configs'
# onedl-mmengine 0.10.12 does not find `mmseg::` in a _base_: it looks for the distribution mmsegmentation
LOST = () if 'mmsegmentation' in {d.name for d in distributions()} else ('mmseg/mask2former_swinv2_b.py',
                                                                        'mmseg/mask2former_swinv2_l.py')
LEAVES = [name for name in sorted(str(p.relative_to(CONFIGS)) for host in HOSTS for p in (CONFIGS / host).glob('*.py'))
          if name not in LOST]


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
    return copy.deepcopy(read(name))


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
