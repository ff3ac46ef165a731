"""Swin Transformer V2 as a backbone for MMDetection and MMSegmentation.

Importing the package registers what it has with MMEngine, where that is installed: ``mmswinv2.models`` and
``mmswinv2.engine`` at once, ``mmswinv2.detection`` (imports mmdet) and ``mmswinv2.segmentation`` (mmseg) when one of
their names is looked up. ``mmswinv2.core`` needs torch alone.
"""
from importlib.util import find_spec

from .version import __version__

if find_spec('mmengine') is not None:
    from . import engine, models  # noqa: F401

__all__ = ['__version__']
