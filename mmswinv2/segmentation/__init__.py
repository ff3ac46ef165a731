"""What needs mmseg: test-time augmentation that holds one view at a time, and a check of labels.

Without mmseg the package imports, registers nothing, and says what to install when one of its names is used.
"""
from ..hosts import is_installed, require

__all__ = ['CheckLabels', 'StreamingSegTTAModel']

if is_installed('mmseg'):
    from .labels import CheckLabels
    from .tta import StreamingSegTTAModel


def __getattr__(name: str):
    if name in __all__:
        require('mmseg', f'mmswinv2.segmentation.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
