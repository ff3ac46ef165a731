"""Swin Transformer V2 as a backbone for MMDetection, MMSegmentation, MMPretrain and MMAction2.

Importing the package registers names with MMEngine, where that is installed, and changes nothing else in the process.
``mmswinv2.models`` and ``mmswinv2.engine`` are imported at once, ``mmswinv2.detection`` (needs mmdet),
``mmswinv2.segmentation`` (mmseg), ``mmswinv2.classification`` (mmpretrain) and ``mmswinv2.video`` (mmaction) when one
of their names is looked up.
``mmswinv2.engine.setup`` repairs MMEngine and hosts for a process; only ``custom_imports`` imports it.
``mmswinv2.core`` needs torch alone.
"""
from . import core
from .hosts import is_installed
from .version import __version__

if is_installed('mmengine'):
    from . import engine, models  # noqa: F401

__all__ = ['__version__', 'core']
