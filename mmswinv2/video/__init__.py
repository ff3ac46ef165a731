"""What needs mmaction2: five crops of a frame, and clips whose frames are shuffled.

mmaction2 is imported when one of the names is used; without mmaction2 that is an error which says what to install.
"""
from ..hosts import folder_names

__all__, __getattr__ = folder_names('mmaction')
