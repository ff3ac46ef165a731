"""What needs mmdet: the RoI head of HTC++, RoI pooling in float32, test-time augmentation of boxes and masks.

Without mmdet the package imports, registers nothing, and says what to install when one of its names is used.
"""
from ..hosts import is_installed, require

__all__ = ['HybridTaskCascadeRoIHead', 'InstanceSegTTAModel', 'RLEMasks', 'SingleRoIExtractor']

if is_installed('mmdet'):
    from .htc_roi_head import HybridTaskCascadeRoIHead
    from .masks import RLEMasks
    from .roi_extractor import SingleRoIExtractor
    from .tta import InstanceSegTTAModel


def __getattr__(name: str):
    if name in __all__:
        require('mmdet', f'mmswinv2.detection.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
