"""Code for mmpretrain: ImageNet-V2, and pre-training by SimMIM.

mmpretrain is imported when one of the names is used. Without mmpretrain this raises an error that says what to install.
"""
from ..hosts import folder_names

__all__, __getattr__ = folder_names('mmpretrain')
