"""The plugin's registries: children of MMEngine's, scope ``mmswinv2``.

``type='mmswinv2.SwinTransformerV2'`` works from any scope without ``custom_imports``: MMEngine imports this module
for the prefix, and the locations below for the names.
"""
from .hosts import require

require('mmengine', 'mmswinv2.registry')

from mmengine import registry as _root  # noqa: E402

MODELS = _root.Registry('model', parent=_root.MODELS, scope='mmswinv2',
                        locations=['mmswinv2.models', 'mmswinv2.detection'])
OPTIM_WRAPPER_CONSTRUCTORS = _root.Registry('optim wrapper constructor', parent=_root.OPTIM_WRAPPER_CONSTRUCTORS,
                                            scope='mmswinv2', locations=['mmswinv2.engine'])
