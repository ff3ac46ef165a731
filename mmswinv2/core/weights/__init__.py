"""Checkpoints: reads files, fits weights of any known layout to a backbone, and writes other layouts."""
from ..pretrained_windows import WINDOWS_KEY
from .adapt import ADAPTATIONS, adapt_in_channels, inflate, inflate_state, read_rows, take_rows
from .files import read_file, write_file
from .fit import check_complete, config_of, fit_state, load_backbone
from .layouts import LAYOUTS, Layout, detect_layout, find_prefix
from .read import BackboneState, check_finite, group_extras, not_finite, read_backbone_state, weights_of
from .write import to_layout

__all__ = [
    'ADAPTATIONS', 'LAYOUTS', 'WINDOWS_KEY', 'BackboneState', 'Layout', 'adapt_in_channels', 'check_complete',
    'check_finite', 'config_of', 'detect_layout', 'find_prefix', 'fit_state', 'group_extras', 'inflate',
    'inflate_state', 'load_backbone', 'not_finite', 'read_backbone_state', 'read_file', 'read_rows', 'take_rows',
    'to_layout', 'weights_of', 'write_file'
]
