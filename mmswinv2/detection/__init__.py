"""Code for mmdet: the RoI head of HTC++, RoI pooling in float32, test-time augmentation of boxes and masks.

mmdet is imported when one of the names is used. Without mmdet this raises an error that says what to install.
"""
from ..hosts import folder_names

__all__, __getattr__ = folder_names('mmdet')
