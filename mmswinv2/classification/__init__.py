"""What needs mmpretrain: ImageNet-V2, and pre-training by SimMIM.

mmpretrain is imported when one of the names is used; without mmpretrain that is an error which says what to install.
"""
from ..hosts import folder_names

__all__, __getattr__ = folder_names('mmpretrain')
