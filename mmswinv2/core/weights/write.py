"""Converts the backbone's own names to the layouts of other projects.

Pure functions. They refuse weights that the other project cannot compute with: the extra norm of H and G, other kinds
of position bias, other places of norms, video.
"""
from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..arch import get_arch
from ..checks import as_configured, to_windows
from ..pretrained_windows import WINDOWS_KEY
from .fit import OUTPUT_NORM, check_complete
from .layouts import LAYOUTS, Layout
from .layouts.buffers import Geometry
from .read import BackboneState, check_finite, group_extras

MAX_BUFFERS = 8  # GiB


def to_layout(found: BackboneState, target: str, *, window_size: int | Sequence | None = None,
              image_size: int | None = None) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Renames and rearranges weights of a backbone for another project, with the extras that it has a place for.

    Args:
        found: All weights of one backbone.
        target: A key of ``LAYOUTS``.
        window_size: In tokens, an int or one per stage: for ``'microsoft'``, whose strict loading needs its buffers.
            None: the pre-training windows.
        image_size: In pixels, for the same. None: 32 times the window of the last stage.

    Returns:
        (names and tensors, our names of entries that the target has no place for, by rule).

    Raises:
        ValueError: if a weight is missing, an extra is not finite, or the target cannot compute the weights' model.
    """
    if target not in LAYOUTS:
        raise ValueError(f'target must be one of {", ".join(LAYOUTS)}, got {target!r}')
    layout = LAYOUTS[target]
    if not layout.windows_matter and (window_size, image_size) != (None, None):
        raise ValueError('window_size and image_size must be given for microsoft only, got '
                         f'{window_size} and {image_size} for {target}')
    config = check_complete(found)
    check_finite('checkpoint', found.extras)
    _check_computed(config, found.state, layout)
    state, left = dict(found.state), {}
    if not layout.says_windows:
        state.pop(WINDOWS_KEY, None)
    if not layout.each_norm:
        state, left['norms of earlier outputs'] = _last_norm(state, found.num_stages - 1, config, target)
    if layout.buffers is not None:
        state.update(_buffers(layout, _geometry(found, config, layout, window_size, image_size)))
    out, extras = layout.write(state, found.extras)
    left.update(group_extras(extras))
    return out, {rule: names for rule, names in left.items() if names}


def _check_computed(config: Mapping, state: Mapping[str, Tensor], layout: Layout) -> None:
    problems = ['third axis, time'] if 'temporal_patch_size' in config and 'video' not in layout.computes else []
    if any(re.match(r'layers\.\d\.blocks\.\d+\.norm3\.', k) for k in state) and 'norm3' not in layout.computes:
        problems.append('the extra norm of blocks (norm3)')
    problems += [f'{k}={config[k]!r}' for k in ('position_bias', 'norm_placement')
                 if k in config and config[k] not in layout.computes]
    if problems:
        raise ValueError(f'checkpoint must be one that {layout.name} can compute; it has no {", no ".join(problems)}')


def _last_norm(state: dict[str, Tensor], last: int, config: Mapping,
               target: str) -> tuple[dict[str, Tensor], list[str]]:
    """Keeps the norm of the last output as a classifier's one norm; returns the names of the other norms too."""
    if f'norm{last}.weight' not in state:
        raise ValueError(f'checkpoint must hold norm{last}, which {target} puts after the last stage; it is of a '
                         f'backbone with out_indices={config["out_indices"]}')
    earlier = [k for k in state if (match := OUTPUT_NORM.fullmatch(k)) and int(match[1]) != last]
    return {re.sub(rf'^norm{last}\.', 'norm.', k): v for k, v in state.items() if k not in earlier}, earlier


def _geometry(found: BackboneState, config: Mapping, layout: Layout, window_size: int | Sequence | None,
              image_size: int | None) -> Geometry:
    pretrained = found.pretrained_window_sizes
    if pretrained is None:
        raise ValueError(f'{WINDOWS_KEY} must be given: the checkpoint does not say them, and the buffers of '
                         f'{layout.name} depend on them')
    windows = pretrained if window_size is None else to_windows(
        'window_size', window_size, found.num_stages, axes=found.axes)
    return Geometry(get_arch(config['arch']).depths, pretrained, windows, image_size,
                    log_spaced=config.get('position_bias') != 'linear_cpb')


def _buffers(layout: Layout, shape: Geometry) -> dict[str, Tensor]:
    """The derived tensors of a layout, whose size is found on the meta device first."""
    assert layout.buffers is not None
    try:
        with torch.device('meta'):
            size = sum(v.numel() * v.element_size() for v in layout.buffers(shape).values()) / 2**30
    except RuntimeError:  # more than torch can count
        size = math.inf
    if size > MAX_BUFFERS:
        pixels = '' if shape.image_size is None else f' and {shape.image_size} px'
        raise ValueError(f'window_size and image_size must give buffers of at most {MAX_BUFFERS} GiB for '
                         f'{layout.name}, got {size:.3g} GiB for windows of {as_configured(shape.windows)} tokens'
                         f'{pixels}')
    return layout.buffers(shape)
