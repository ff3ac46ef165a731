"""From what a checkpoint holds to the weights of a backbone in its own names, and into a backbone, strictly.

Pure functions: nothing that is passed in is changed. Every name in a file is used, dropped by a named rule, or an
error. See ``layouts.py`` for the rules and ``docs/checkpoints.md`` for their use.
"""
from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .arch import ARCHS, get_arch
from .checks import Pair, to_windows
from .coordinates import read_coordinates
from .finite import check_finite
from .layouts import COORDS, LAYOUTS, OWN, detect_layout, find_prefix, first
from .position_bias import table_rows, table_window

CONTAINERS = ('state_dict', 'model', 'module')
OUTPUT_NORM = re.compile(r'norm(\d)\.(weight|bias)')
WINDOWS_KEY = 'pretrained_window_sizes'
RANKS = {'patch_embed.proj.weight': 4, 'logit_scale': 3, 'relative_position_bias_table': 2, 'attn.qkv.weight': 2,
         'attn.proj.weight': 2, 'cpb_mlp.0.weight': 2, 'cpb_mlp.2.weight': 2, 'fc1.weight': 2, 'fc2.weight': 2,
         'reduction.weight': 2}  # axes; others have one


@dataclass(frozen=True)
class BackboneState:
    """The weights of a backbone, in its own names, and what the file says besides.

    Args:
        state: Names and tensors; with ``pretrained_window_sizes`` where the file says them.
        source: The layout that they came in, a key of ``LAYOUTS``.
        prefix: Where they were in the file.
        dropped: Names in the file that were not used, by rule.
        window_sizes: (h, w) in tokens per stage, where coordinates or tables in the file show it.
        position_bias: ``'log_cpb'`` or ``'linear_cpb'``, where coordinates in the file show it.
        windows_assumed: Whether the file does not say its windows, and they are those of square tables of as many rows.
    """

    state: dict[str, Tensor]
    source: str
    prefix: str
    dropped: dict[str, list[str]] = field(default_factory=dict)
    window_sizes: tuple[Pair, ...] | None = None
    position_bias: str | None = None
    windows_assumed: bool = False

    @property
    def pretrained_window_sizes(self) -> tuple[Pair, ...] | None:
        """(h, w) in tokens per stage, or None where the file does not say."""
        saved = self.state.get(WINDOWS_KEY)
        return None if saved is None else tuple((int(h), int(w)) for h, w in saved.tolist())


def weights_of(checkpoint: Mapping) -> tuple[dict[str, Tensor], list[str]]:
    """The weights in what a file holds: under ``state_dict`` (OpenMMLab), ``model`` (Microsoft), ``module``
    (DeepSpeed), or as they are.

    Returns:
        (names and tensors, names of what the file holds beside them).

    Raises:
        ValueError: if there are none.
    """
    state, beside = checkpoint, []
    for key in CONTAINERS:
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            state, beside = checkpoint[key], [str(k) for k in checkpoint if k != key]
            break
    if not isinstance(state, Mapping) or not state or not all(
            isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError('checkpoint must hold a state dict of tensors, as it is or under one of '
                         f'{", ".join(CONTAINERS)}')
    weights = {k.removeprefix('module.'): v for k, v in state.items()}  # DistributedDataParallel's prefix
    if len(weights) < len(state):
        raise ValueError('checkpoint must hold each weight once, got some with and without the prefix module.')
    for name, value in weights.items():
        odd = value.is_meta or value.is_quantized or value.is_complex() or value.is_nested
        if odd or value.layout != torch.strided:
            raise ValueError(f'{name} must be a dense tensor of real numbers, got {value.dtype} '
                             f'({value.layout}, on {value.device})')
    return weights, beside


def _check_tensor(name: str, value: Tensor, right: bool, requirement: str) -> None:
    if not right:
        raise ValueError(f'{name} must hold {requirement}, got {value.dtype} of shape {tuple(value.shape)}')


def read_backbone_state(checkpoint: Mapping, *, source: str = 'auto', prefix: str | None = None) -> BackboneState:
    """Reads the weights of a backbone in any known layout.

    Args:
        checkpoint: What a file holds; it is not changed.
        source: A key of ``LAYOUTS``, or ``'auto'`` to tell it from the names.
        prefix: Where the backbone is in the file, such as ``'backbone.'``. None: where its patch embedding is.

    Returns:
        The weights; tensors are those of ``checkpoint`` or, where they had to be rearranged, new ones.

    Raises:
        ValueError: if the file holds no weights, none under ``prefix``, names that no rule knows, or weights of the
            backbone that are not finite.
    """
    if source != 'auto' and source not in LAYOUTS:
        raise ValueError(f'source must be one of auto, {", ".join(LAYOUTS)}, got {source!r}')
    weights, beside = weights_of(checkpoint)
    if prefix is None:
        prefix = find_prefix(weights)
    elif prefix and not prefix.endswith('.'):
        prefix += '.'
    inside = {k[len(prefix):]: v for k, v in weights.items() if k.startswith(prefix)}
    if not inside:
        raise ValueError(f'prefix must be one that names in the checkpoint begin with, got {prefix!r}')
    if source == 'auto':
        source = detect_layout(inside, prefix)
    elif source == 'mmpretrain' and not any(name.startswith('stages.') for name in inside):
        raise ValueError(f'source must be the layout of the checkpoint, got {source!r} for names without stages.: '
                         f'{first(inside)}')  # it would put the weights of patch merging in another order
    layout = LAYOUTS[source]

    dropped = {'outside of the backbone': [k for k in weights if not k.startswith(prefix)],
               'beside the weights': beside}
    state, coords = {}, {}
    for name, value in inside.items():
        renamed = name
        for pattern, replacement in layout.renamed:
            renamed = re.sub(pattern, replacement, renamed)
        if COORDS.fullmatch(renamed):
            coords[renamed] = value
        for pattern, rule in layout.dropped:
            if re.fullmatch(pattern, name):
                dropped.setdefault(rule, []).append(prefix + name)
                break
        else:
            if renamed in state:
                raise ValueError(f'checkpoint must hold each weight once, got two for {renamed}')
            state[renamed] = value
    if layout.finish is not None:
        try:
            state = layout.finish(state)
        except (RuntimeError, IndexError) as e:
            raise ValueError(f'checkpoint must hold weights of the shapes that the layout of {source} has: '
                             f'{str(e).splitlines()[0]}') from e
    num_stages = 1 + max((int(k.split('.')[1]) for k in state if re.match(r'layers\.\d\.', k)), default=0)
    for part in ('weight', 'bias'):
        if f'norm.{part}' in state:  # a classifier's last norm
            last = f'norm{num_stages - 1}.{part}'
            if last in state:
                raise ValueError(f'checkpoint must hold each weight once, got norm.{part} and {last}')
            state[last] = state.pop(f'norm.{part}')
    for i in range(num_stages):
        if (f'norm{i}.weight' in state) != (f'norm{i}.bias' in state):
            raise ValueError(f'checkpoint must hold weight and bias of norm{i}, got one of them')
    unknown = [k for k in state if not OWN.fullmatch(k)]
    if unknown:
        raise ValueError(f'checkpoint must hold weights of Swin Transformer V2 only, in the layout of {source}; '
                         f'not known: {len(unknown)} ({first(unknown)})')
    for name, value in state.items():
        if name == WINDOWS_KEY:
            _check_tensor(name, value, value.ndim == 2 and value.shape[1] == 2 and not value.is_floating_point(),
                          'integers, of shape (stages, 2)')
            to_windows(name, value.tolist(), num_stages)
        else:
            ndim = next((n for end, n in RANKS.items() if name.endswith(end)), 1)
            _check_tensor(name, value, value.ndim == ndim and value.is_floating_point(),
                          f'floating-point numbers along {ndim} axes')
    check_finite('checkpoint', state)

    windows, pretrained, kind = read_coordinates(coords, num_stages)
    tables = [state.get(f'layers.{i}.blocks.0.attn.relative_position_bias_table') for i in range(num_stages)]
    assumed = WINDOWS_KEY not in state and all(t is not None for t in tables)
    if assumed:
        with contextlib.suppress(ValueError):  # of windows that are not square: the config must say them
            windows = pretrained = tuple(table_window(t.shape[0]) for t in tables)  # of a table, its own window
    if pretrained is not None:
        said = state.setdefault(WINDOWS_KEY, torch.tensor(pretrained, dtype=torch.int64))
        if said.tolist() != [list(pair) for pair in pretrained]:
            raise ValueError(f'{WINDOWS_KEY} must be what the coordinates in the checkpoint are normalised by, '
                             f'{[list(pair) for pair in pretrained]}, got {said.tolist()}')
    return BackboneState(state, source, prefix, {k: v for k, v in dropped.items() if v}, windows, kind,
                         assumed)


def config_of(found: BackboneState) -> dict:
    """The arguments of :class:`mmswinv2.core.SwinTransformerV2` that weights are for, as far as they show.

    Returns:
        ``arch`` (a name where it is a known one), ``out_indices``, and what is not the default; windows are included
        where the weights say them.

    Raises:
        ValueError: if the weights are not those of one backbone.
    """
    state = found.state
    blocks: dict[int, set[int]] = {}
    for name in state:
        match = re.match(r'layers\.(\d)\.blocks\.(\d+)\.', name)
        if match:
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    num_stages = len(blocks)
    try:
        if set(blocks) != set(range(num_stages)) or not blocks:
            raise KeyError('layers.0.blocks')
        depths = [len(blocks[i]) for i in range(num_stages)]
        for i, depth in enumerate(depths):
            if blocks[i] != set(range(depth)):
                raise KeyError(f'layers.{i}.blocks.{min(set(range(depth)) - blocks[i])}')
        proj = state['patch_embed.proj.weight']
        num_heads = [state[f'layers.{i}.blocks.0.attn.logit_scale'].shape[0] for i in range(num_stages)]
        fc1 = state['layers.0.blocks.0.mlp.fc1.weight']
    except KeyError as e:
        raise ValueError(f'checkpoint must hold each weight of the backbone; missing: {e.args[0]}') from e
    extra = [int(k.split('.')[3]) + 1 for k in state if re.fullmatch(r'layers\.\d\.blocks\.\d+\.norm3\.weight', k)]
    arch = dict(embed_dims=proj.shape[0], depths=depths, num_heads=num_heads,
                **({'extra_norm_every_n_blocks': min(extra)} if extra else {}))
    name = next((name for name, known in ARCHS.items() if get_arch(known) == get_arch(arch)), None)
    config = dict(arch=arch if name is None else name)
    outputs = sorted({int(m[1]) for m in map(OUTPUT_NORM.fullmatch, state) if m})
    config['out_indices'] = tuple(outputs) or (num_stages - 1,)
    if 'layers.0.blocks.0.attn.relative_position_bias_table' in state:
        config['position_bias'] = 'parameterized'
        known = found.pretrained_window_sizes
        config['window_size'] = [
            table_window(state[f'layers.{i}.blocks.0.attn.relative_position_bias_table'].shape[0],
                         known[i] if known else None) for i in range(num_stages)]
    elif found.position_bias == 'linear_cpb':
        config['position_bias'] = 'linear_cpb'
    if found.pretrained_window_sizes is not None:
        config['pretrained_window_sizes'] = [list(pair) for pair in found.pretrained_window_sizes]
    if found.window_sizes is not None:
        config['window_size'] = [list(pair) for pair in found.window_sizes]
    if proj.shape[1] != 3:
        config['in_channels'] = proj.shape[1]
    if fc1.shape[0] != 4 * proj.shape[0]:
        config['mlp_ratio'] = fc1.shape[0] / proj.shape[0]
    if 'layers.0.blocks.0.attn.q_bias' not in state:
        config['qkv_bias'] = False
    merging = state.get('layers.0.downsample.norm.weight')
    if merging is not None and merging.shape[0] == 4 * proj.shape[0]:
        config['norm_placement'] = 'pre'
    return config


def check_complete(found: BackboneState) -> dict:
    """Checks that weights are all those of one backbone, and returns its arguments (:func:`config_of`).

    Raises:
        ValueError: if a weight is missing, or one is too many or of another shape.
    """
    from .swin_transformer_v2 import SwinTransformerV2
    config = config_of(found)
    with torch.device('meta'):
        net = SwinTransformerV2(**dict(dict(pretrained_window_sizes=8), **config))
    fit_state(net, found)
    return config


def fit_state(net: nn.Module, found: BackboneState) -> tuple[dict[str, Tensor], str]:
    """Chooses what a backbone takes of weights that were read, strictly: only norms of outputs may be missing (they
    stay as constructed) or unused.

    Args:
        net: A :class:`mmswinv2.core.SwinTransformerV2`.
        found: The weights.

    Returns:
        (names and tensors to load, what they are in words).

    Raises:
        ValueError: if a weight is missing, is not the backbone's or has another shape, or if the kind of position
            bias is contradictory or the pre-training windows are unknown.
    """
    state, own = found.state, net.state_dict()
    kind = net.layers[0].blocks[0].attn.position_bias
    if found.position_bias is not None and found.position_bias != kind:
        raise ValueError(f'position_bias must be what the checkpoint was trained with, {found.position_bias!r}, '
                         f'got {kind!r}')
    missing = [k for k in own if k not in state and not OUTPUT_NORM.fullmatch(k)]
    if WINDOWS_KEY in missing and net.pretrained_window_given:
        missing.remove(WINDOWS_KEY)
    unexpected = [k for k in state if k not in own and not OUTPUT_NORM.fullmatch(k)]
    shapes = [f'{k} {tuple(own[k].shape)}, got {tuple(v.shape)}' for k, v in state.items()
              if k in own and own[k].shape != v.shape and not _resizable(k, v, own[k])]
    problems = [f'{what}: {len(keys)} ({first(keys)})' for what, keys in (
        ('missing', missing), ('not in the backbone', unexpected), ('of another shape', shapes)) if keys]
    if problems:
        hint = ''
        if WINDOWS_KEY in missing:
            hint = ('; the file does not say which windows it was pre-trained with: '
                    'set pretrained_window_sizes in the config of the backbone')
        raise ValueError(f'checkpoint must hold each weight of the backbone and no other; {"; ".join(problems)}{hint}')
    taken = {k: v for k, v in state.items() if k in own}
    if found.windows_assumed and net.pretrained_window_given and all(
            table_rows(window) == state[f'layers.{i}.blocks.0.attn.relative_position_bias_table'].shape[0]
            for i, window in enumerate(net.pretrained_window_sizes)):
        taken.pop(WINDOWS_KEY, None)  # the config knows better than the assumption
    text = f'{len(taken)} of {len(own)} entries in the layout of {found.source}'
    fresh = [k for k in own if k not in state and OUTPUT_NORM.fullmatch(k)]
    unused = [k for k in state if k not in own]
    if fresh:
        text += f'; not in the file and left as initialised: {first(fresh)}'
    if unused:
        text += f'; of outputs that are not used: {first(unused)}'
    for rule, names in found.dropped.items():
        text += f'; {rule}: {len(names)}'
    return taken, text


def _resizable(name: str, value: Tensor, own: Tensor) -> bool:
    return name.endswith('.relative_position_bias_table') and value.ndim == 2 and value.shape[1] == own.shape[1]


def load_backbone(net: nn.Module, found: BackboneState) -> str:
    """Loads weights that were read into a backbone; see :func:`fit_state`.

    Returns:
        What was loaded, in words.

    Raises:
        ValueError: as :func:`fit_state`, or if the pre-training windows are contradictory.
    """
    taken, text = fit_state(net, found)
    net.load_state_dict(taken, strict=False)
    return text
