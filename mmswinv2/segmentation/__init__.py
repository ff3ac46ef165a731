"""Code for mmseg: test-time augmentation that holds one view at a time, and a check of labels.

mmseg is imported when one of the names is used. Without mmseg this raises an error that says what to install.
"""
from ..hosts import folder_names

__all__, __getattr__ = folder_names('mmseg')
