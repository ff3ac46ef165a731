"""The plugin's registries: children of MMEngine's, scope ``mmswinv2``.

``type='mmswinv2.SwinTransformerV2'`` works from any scope without ``custom_imports``: MMEngine imports this module
for the prefix, and the locations below for the names. What needs a host is imported when its name is asked for,
so that a job of one of them does not import the other.
"""
from importlib import import_module

from .hosts import HOSTS, is_installed, missing

if not is_installed('mmengine'):
    raise missing('mmengine', 'mmswinv2.registry')

from mmengine import registry as mmengine_registry

FOLDERS = {name: f'mmswinv2.{host.folder}' for host in HOSTS.values() for names in host.names.values()
           for name in names}


class _Registry(mmengine_registry.Registry):
    """A registry that imports the part of the plugin with a name first."""

    def get(self, key: str) -> type | None:
        """The class of a name, with or without the prefix; see mmengine.

        Raises:
            ImportError: if the name needs a host that is not installed; the message says what to install.
        """
        name = key.rpartition('.')[2]
        if name in FOLDERS and name not in self._module_dict and key in (name, f'{self.scope}.{name}'):
            getattr(import_module(FOLDERS[name]), name)
        return super().get(key)


def _child(parent: mmengine_registry.Registry, *parts: str) -> _Registry:
    return _Registry(parent.name, parent=parent, scope='mmswinv2', locations=[f'mmswinv2.{part}' for part in parts])


MODELS = _child(mmengine_registry.MODELS, 'models')
TRANSFORMS = _child(mmengine_registry.TRANSFORMS)
OPTIM_WRAPPER_CONSTRUCTORS = _child(mmengine_registry.OPTIM_WRAPPER_CONSTRUCTORS, 'engine')
HOOKS = _child(mmengine_registry.HOOKS, 'engine')
RUNNERS = _child(mmengine_registry.RUNNERS, 'engine')
LOOPS = _child(mmengine_registry.LOOPS, 'engine')
STRATEGIES = _child(mmengine_registry.STRATEGIES, 'engine')
DATASETS = _child(mmengine_registry.DATASETS)
METRICS = _child(mmengine_registry.METRICS)
