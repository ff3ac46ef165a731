"""The plugin's registries: children of MMEngine's, scope ``mmswinv2``.

``type='mmswinv2.SwinTransformerV2'`` works from any scope without ``custom_imports``: MMEngine imports this module
for the prefix, and the locations below for the names. What needs mmdet or mmseg is imported when its name is asked for,
so that a job of one of them does not import the other.
"""
from importlib import import_module

from .hosts import require

require('mmengine', 'mmswinv2.registry')

from mmengine import registry as _root  # noqa: E402

WHERE = {name: f'mmswinv2.{part}' for part, names in dict(
    detection=('HybridTaskCascadeRoIHead', 'InstanceSegTTAModel', 'SingleRoIExtractor'),
    segmentation=('CheckLabels', 'StreamingSegTTAModel')).items() for name in names}


class _Registry(_root.Registry):
    """A registry that imports the part of the plugin with a name first."""

    def get(self, key: str) -> type | None:
        """The class of a name, with or without the prefix; see mmengine.

        Raises:
            ImportError: if the name needs mmdet or mmseg and it is not installed; the message says what to install.
        """
        name = key.rpartition('.')[2]
        if name in WHERE and name not in self._module_dict and key in (name, f'{self.scope}.{name}'):
            getattr(import_module(WHERE[name]), name)
        return super().get(key)


MODELS = _Registry('model', parent=_root.MODELS, scope='mmswinv2', locations=['mmswinv2.models'])
TRANSFORMS = _Registry('transform', parent=_root.TRANSFORMS, scope='mmswinv2')
OPTIM_WRAPPER_CONSTRUCTORS = _root.Registry('optim wrapper constructor', parent=_root.OPTIM_WRAPPER_CONSTRUCTORS,
                                            scope='mmswinv2', locations=['mmswinv2.engine'])
HOOKS = _root.Registry('hook', parent=_root.HOOKS, scope='mmswinv2', locations=['mmswinv2.engine'])
LOOPS = _root.Registry('loop', parent=_root.LOOPS, scope='mmswinv2', locations=['mmswinv2.engine'])
STRATEGIES = _root.Registry('strategy', parent=_root.STRATEGIES, scope='mmswinv2', locations=['mmswinv2.engine'])
