"""Scaled cosine attention within windows, on maps with one to three axes: a function, its backends, and a module.

:func:`window_attention` takes a whole map of projected queries, keys and values, the bias table, the scale, windows and
shift. Each call chooses a backend that supports the problem (:mod:`~mmswinv2.core.attention.backends`).

Source:
    arXiv:2111.09883, sections 3.2 and 3.3; microsoft/Swin-Transformer, ``models/swin_transformer_v2.py``,
    ``WindowAttention``.
"""
from .backends import BACKENDS, choose, window_attention
from .config import AttentionConfig
from .eager import cosine_normalize
from .module import WindowAttention
from .problem import Backend, Problem

__all__ = ['BACKENDS', 'AttentionConfig', 'Backend', 'Problem', 'WindowAttention', 'choose', 'cosine_normalize',
           'window_attention']
