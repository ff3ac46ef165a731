"""What needs mmseg: test-time augmentation that holds one view at a time, and a check of labels.

mmseg is imported when one of the names is used; without mmseg that is an error which says what to install.
"""
from ..hosts import folder_names

__all__, __getattr__ = folder_names('mmseg')
