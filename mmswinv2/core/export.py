"""From the backbone's own names to the layouts of other projects, each of which loads the result strictly.

Pure functions. What another project cannot compute is refused: the extra norm of H and G, other kinds of position
bias, other places of norms.

Source (names and buffers): as in ``layouts.py``.
"""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .checkpoint import WINDOWS_KEY, BackboneState, check_complete
from .checks import square, to_windows
from .position_bias import relative_coordinates


MAX_BUFFERS = 8 * 2**30  # bytes
TARGETS = ('mmswinv2', 'microsoft', 'timm', 'transformers')


def to_layout(found: BackboneState, target: str, *, window_size: int | Sequence | None = None,
              image_size: int | None = None) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Renames weights of a backbone for another project.

    Args:
        found: All weights of one backbone.
        target: One of ``TARGETS``.
        window_size: In tokens, an int or one per stage: for ``'microsoft'``, whose strict loading wants its buffers.
            None: the pre-training windows.
        image_size: In pixels, for the same. None: 32 times the window of the last stage.

    Returns:
        (names and tensors, names of the backbone that the target has no place for by rule).

    Raises:
        ValueError: if a weight is missing, or the target cannot compute what the weights are for.
    """
    if target not in TARGETS:
        raise ValueError(f'target must be one of {", ".join(TARGETS)}, got {target!r}')
    config = check_complete(found)
    if target == 'mmswinv2':
        return dict(found.state), {}
    _check_supported(config, found.state, target)
    state = {k: v for k, v in found.state.items() if k != WINDOWS_KEY}
    last = 1 + max(int(k.split('.')[1]) for k in state if k.startswith('layers.')) - 1
    if f'norm{last}.weight' not in state:
        raise ValueError(f'checkpoint must hold norm{last}, which {target} puts after the last stage; it is of a '
                         f'backbone with out_indices={config["out_indices"]}')
    dropped = {'norms of earlier outputs': [k for k in state if re.match(r'norm\d\.', k) and k[4] != str(last)]}
    state = {re.sub(rf'^norm{last}\.', 'norm.', k): v for k, v in state.items()
             if k not in dropped['norms of earlier outputs']}
    state = {'microsoft': _to_microsoft, 'timm': _to_timm, 'transformers': _to_transformers}[target](state)
    if target == 'microsoft':
        state.update(_microsoft_buffers(found, config, last + 1, window_size, image_size))
    return state, {k: v for k, v in dropped.items() if v}


def _check_supported(config: Mapping, state: Mapping[str, Tensor], target: str) -> None:
    problems = []
    if any(re.match(r'layers\.\d\.blocks\.\d+\.norm3\.', k) for k in state):
        problems.append('the extra norm of blocks (norm3)')
    problems += [f'{k}={config[k]!r}' for k in ('position_bias', 'norm_placement') if k in config]
    if problems:
        raise ValueError(f'checkpoint must be one that {target} can compute; it has no {", no ".join(problems)}')


def _to_microsoft(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state


def _to_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {re.sub(r'^layers\.(\d)\.downsample\.', lambda m: f'layers.{int(m[1]) + 1}.downsample.', k): v
            for k, v in state.items()}


TRANSFORMERS = (
    (r'^patch_embed\.proj\.', 'embeddings.patch_embeddings.projection.'),
    (r'^patch_embed\.norm\.', 'embeddings.norm.'),
    (r'^norm\.', 'layernorm.'),
    (r'^layers\.', 'encoder.layers.'),
    (r'\.norm1\.', '.layernorm_before.'),
    (r'\.norm2\.', '.layernorm_after.'),
    (r'\.mlp\.fc1\.', '.intermediate.dense.'),
    (r'\.mlp\.fc2\.', '.output.dense.'),
    (r'\.attn\.proj\.', '.attention.output.dense.'),
    (r'\.attn\.cpb_mlp\.', '.attention.self.continuous_position_bias_mlp.'),
    (r'\.attn\.q_bias$', '.attention.self.query.bias'),
    (r'\.attn\.v_bias$', '.attention.self.value.bias'),
    (r'\.attn\.', '.attention.self.'),
)


def _to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for name, value in state.items():
        for pattern, replacement in TRANSFORMERS:
            name = re.sub(pattern, replacement, name)
        if name.endswith('.qkv.weight'):
            stem = name.removesuffix('qkv.weight')
            for part, rows in zip(('query', 'key', 'value'), value.chunk(3)):
                out[f'{stem}{part}.weight'] = rows.clone()
        else:
            out[name] = value
    return out


def _microsoft_buffers(found: BackboneState, config: Mapping, num_stages: int, window_size: int | Sequence | None,
                       image_size: int | None) -> dict[str, Tensor]:
    """The buffers that the release saves: coordinates, index and, where windows are shifted, masks."""
    pretrained = found.pretrained_window_sizes
    if pretrained is None:
        raise ValueError('pretrained_window_sizes must be given: the checkpoint does not say them, and the '
                         "release's buffers depend on them")
    windows = pretrained if window_size is None else to_windows('window_size', window_size, num_stages)
    if any(h != w for h, w in (*windows, *pretrained)):
        raise ValueError(f'window_size and pretrained_window_sizes must be square for microsoft, got {windows} and '
                         f'{pretrained}')
    stride = 2**(num_stages + 1)  # pixels, of the last stage
    image_size = stride * windows[-1][0] if image_size is None else image_size
    if image_size < stride or image_size % stride:
        raise ValueError(f'image_size must be a multiple of {stride} px for microsoft, got {image_size}')
    blocks = []  # name, stage, tokens of a window, tokens of the map, whether windows are shifted
    for name in found.state:
        match = re.fullmatch(r'(layers\.(\d)\.blocks\.(\d+)\.)attn\.logit_scale', name)
        if match:
            stage, resolution = int(match[2]), image_size // (4 * 2**int(match[2]))
            size = min(windows[stage][0], resolution)  # the release shrinks a window to the map
            blocks.append((match[1], stage, size, resolution, int(match[3]) % 2 == 1 and resolution > size))
    total = sum(8 * (2 * size - 1)**2 + 8 * size**4 + 4 * shifted * (resolution * size)**2
                for _, _, size, resolution, shifted in blocks)  # bytes
    if total > MAX_BUFFERS:
        raise ValueError(f'window_size and image_size must give buffers of at most {MAX_BUFFERS / 2**30:.0f} GiB for '
                         f'microsoft, got {total / 2**30:.3g} GiB for windows of {square(windows)} tokens and '
                         f'{image_size} px')
    buffers = {}
    for stem, stage, size, resolution, shifted in blocks:
        buffers[f'{stem}attn.relative_coords_table'] = relative_coordinates((size, size), pretrained[stage])[None]
        buffers[f'{stem}attn.relative_position_index'] = _pair_index(size)
        if shifted:
            buffers[f'{stem}attn_mask'] = _shift_mask(resolution, size)
    return buffers


def _pair_index(size: int) -> Tensor:
    """Index of the offset of each query from each key: (N, N), int64."""
    rows, cols = (t.flatten() for t in torch.meshgrid(torch.arange(size), torch.arange(size), indexing='ij'))
    dh, dw = (t[:, None] - t[None, :] + size - 1 for t in (rows, cols))
    return dh * (2 * size - 1) + dw


def _shift_mask(resolution: int, size: int) -> Tensor:
    """The release's mask of shifted windows: 0 or -100, (nW, N, N)."""
    if resolution % size:
        raise ValueError(f'image_size must give maps that windows divide for microsoft, got a map of {resolution} '
                         f'tokens and windows of {size}')
    axis = AxisWindows.fit(resolution, size, size // 2)
    regions = torch.empty(axis.count, size, dtype=torch.int64)  # of each token along one axis
    for windows, region in axis.kinds():
        regions[windows] = torch.tensor(region)
    ids = 3 * regions[:, None, :, None] + regions[None, :, None, :]  # (nWh, nWw, Wh, Ww)
    ids = ids.reshape(axis.count**2, size * size)
    return torch.where(ids[:, :, None] == ids[:, None, :], 0., -100.)
