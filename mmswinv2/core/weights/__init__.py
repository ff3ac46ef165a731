"""Checkpoints: reads files, fits weights of any known layout to a backbone, and writes other layouts."""
from .channels import ADAPTATIONS, adapt_in_channels
from .files import read_file, write_file
from .finite import check_finite, not_finite
from .fit import check_complete, config_of, fit_state, load_backbone
from .heads import read_rows, take_rows
from .inflate import inflate, inflate_state
from .layouts import LAYOUTS, Layout, detect_layout, find_prefix
from .state import BackboneState, group_extras, read_backbone_state, weights_of
from .windows import WINDOWS_KEY
from .write import to_layout

__all__ = [
    'ADAPTATIONS', 'LAYOUTS', 'WINDOWS_KEY', 'BackboneState', 'Layout', 'adapt_in_channels', 'check_complete',
    'check_finite', 'config_of', 'detect_layout', 'find_prefix', 'fit_state', 'group_extras', 'inflate',
    'inflate_state', 'load_backbone', 'not_finite', 'read_backbone_state', 'read_file', 'read_rows', 'take_rows',
    'to_layout', 'weights_of', 'write_file'
]
