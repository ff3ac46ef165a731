"""Code for mmaction2: videos whose errors name them, five crops of a frame, and clips with shuffled frames.

mmaction2 is imported when one of the names is used. Without mmaction2 this raises an error that says what to install.
"""
from ..hosts import folder_names

__all__, __getattr__ = folder_names('mmaction')
