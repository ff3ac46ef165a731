"""Turns the contents of a file into the weights of a backbone in its own names.

Arguments are not changed. Every name in a file is used, kept beside the weights as an extra (a head, a mask token),
dropped by a named rule, or an error. See ``layouts/`` for the names and ``docs/checkpoints.md`` for their use.
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..checks import Windows, first, to_windows
from ..pretrained_windows import EMBEDDING, WINDOWS_KEY, find_windows, read_windows
from .layouts import EXTRAS, LAYOUTS, OWN, detect_layout, find_prefix, find_prefixes

CONTAINERS = ('state_dict', 'model', 'module')  # of OpenMMLab, Microsoft, DeepSpeed; they come before others
# in names: torch.compile, activation checkpointing, FSDP; at their beginning: DistributedDataParallel, averaged models
WRAPPERS = re.compile(r'(?<![^.])_(?:orig_mod|checkpoint_wrapped_module|fsdp_wrapped_module)\.')
WRAPPER = re.compile(r'(?:module\.)+')
COUNTERS = ('steps', 'n_averaged')  # beside the weights of an averaged model, mmengine's and torch's
RANKS = {'logit_scale': 3, 'relative_position_bias_table': 2, 'attn.qkv.weight': 2,
         'attn.proj.weight': 2, 'cpb_mlp.0.weight': 2, 'cpb_mlp.2.weight': 2, 'fc1.weight': 2, 'fc2.weight': 2,
         'reduction.weight': 2}  # axes; others have one, and the embedding two and those of a map


@dataclass(frozen=True)
class BackboneState:
    """The weights of a backbone, in its own names, and the file's other information.

    Args:
        state: Names and tensors; with ``pretrained_window_sizes`` if the file says them.
        source: The layout of the file, a key of ``LAYOUTS``.
        prefix: Of the backbone's names in the file, with the entry that they are in if that is not a usual one.
        dropped: Names in the file that were not used, by rule.
        window_sizes: (h, w) or (t, h, w) in tokens per stage, if coordinates or tables in the file show them.
        position_bias: ``'log_cpb'`` or ``'linear_cpb'``, if coordinates in the file show it.
        windows_assumed: Whether the file does not say its windows, so that square windows are assumed from the number
            of table rows.
        extras: Entries of the file's model that are not the backbone's, unchanged: ``head.weight`` (K, C) and
            ``head.bias`` (K,) of a classifier of K classes, ``mask_token`` (1, 1, C) of SimMIM.
    """

    state: dict[str, Tensor]
    source: str
    prefix: str
    dropped: dict[str, list[str]] = field(default_factory=dict)
    window_sizes: Windows | None = None
    position_bias: str | None = None
    windows_assumed: bool = False
    extras: dict[str, Tensor] = field(default_factory=dict)

    @property
    def pretrained_window_sizes(self) -> Windows | None:
        """(h, w) or (t, h, w) in tokens per stage, or None where the file does not say."""
        return read_windows(self.state)

    @property
    def axes(self) -> int:
        """Axes of a map: two for images, three for clips."""
        return count_axes(self.state)

    @property
    def num_stages(self) -> int:
        """Stages that the names of the weights show."""
        return count_stages(self.state)


def count_stages(names: Iterable[str]) -> int:
    """Number of stages, by our names of weights; at least one."""
    return 1 + max((int(k.split('.')[1]) for k in names if re.match(r'layers\.\d\.', k)), default=0)


def count_axes(state: Mapping[str, Tensor]) -> int:
    """Number of axes of a map, by the patch embedding.

    Raises:
        ValueError: if it is neither of images nor of clips.
    """
    shape = tuple(state[EMBEDDING].shape)
    if len(shape) not in (4, 5):
        raise ValueError(f'{EMBEDDING} must have the shape (C, channels, h, w) or (C, channels, t, h, w), got {shape}')
    return len(shape) - 2


def group_extras(names: Iterable[str]) -> dict[str, list[str]]:
    """Groups names of extras by a description in words."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(EXTRAS[name], []).append(name)
    return groups


def bare(name: str) -> str:
    """The name of a weight without the names of modules that wrap others (``WRAPPERS``)."""
    name = WRAPPERS.sub('', name)
    begin = WRAPPER.match(name)
    return name[begin.end():] if begin else name


def find_container(checkpoint: Mapping, prefix: str = '') -> tuple[Mapping, list[str], str]:
    """Finds the entry of a file that holds the weights of a model.

    It is the one that ``prefix`` begins with; else the first of ``CONTAINERS``; else the only one that holds a patch
    embedding, such as ``model_ema``; else the file itself. Containers may be nested.

    Returns:
        (names and values, names of the file's other entries, names of the containers, such as ``'model_ema.'``).

    Raises:
        ValueError: if there are several.
    """
    state, others, path = checkpoint, [], ''
    for _ in range(3):
        key = _container(state, prefix.removeprefix(path).partition('.')[0])
        if key is None:
            break
        others += [str(k) for k in state if k != key]
        state, path = state[key], f'{path}{key}.'
    return state, others, path


def _container(state: Mapping, said: str) -> str | None:
    inside = {k: v for k, v in state.items() if isinstance(v, Mapping) and v}
    if key := next((k for k in (said, *CONTAINERS) if k in inside), None):
        return key
    found = [k for k, v in inside.items() if any(backbones_in(names) for names in (
        v, *(u for u in v.values() if isinstance(u, Mapping))))]
    if len(found) > 1:
        raise ValueError('prefix must say which state dict of the checkpoint is meant (init_cfg.prefix, or --prefix of '
                         f'tools/convert_checkpoint.py), one of {found}')
    return found[0] if found else None


def backbones_in(names: Iterable) -> list[str]:
    """The prefixes of backbones in a file."""
    return find_prefixes(bare(name) for name in names if isinstance(name, str))


def weights_of(checkpoint: Mapping, prefix: str = '') -> tuple[dict[str, Tensor], list[str], str]:
    """Finds the weights in the contents of a file, and takes the names of wrappers off theirs.

    Returns:
        As :func:`find_container`.

    Raises:
        ValueError: if there are none, it cannot be told which are meant, or one is there twice.
    """
    state, others, path = find_container(checkpoint, prefix)
    if not isinstance(state, Mapping) or not state or not all(
            isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError('checkpoint must hold a state dict of tensors, as it is or under one of '
                         f'{", ".join(CONTAINERS)}')
    counters = [k for k in state if k in COUNTERS and any(map(WRAPPER.match, state))]
    others += counters
    state = {k: v for k, v in state.items() if k not in counters}
    weights = {bare(k): v for k, v in state.items()}
    if len(weights) < len(state):
        wrappers = {m[0] for k in state for m in (WRAPPER.match(k), WRAPPERS.search(k)) if m}
        raise ValueError('checkpoint must hold each weight once, got some with and without the prefix '
                         f'{" or ".join(sorted(wrappers))}')
    for name, value in weights.items():
        odd = value.is_meta or value.is_quantized or value.is_complex() or value.is_nested
        if odd or value.layout != torch.strided:
            raise ValueError(f'{name} must be a dense tensor of real numbers, got {value.dtype} '
                             f'({value.layout}, on {value.device})')
    return weights, others, path


def read_backbone_state(checkpoint: Mapping, *, source: str = 'auto', prefix: str | None = None) -> BackboneState:
    """Reads the weights of a backbone in any known layout.

    Args:
        checkpoint: Contents of a file; not changed.
        source: A key of ``LAYOUTS``, or ``'auto'`` to detect it from the names.
        prefix: Of the backbone's names in the file, such as ``'backbone.'``; it may begin with the entry of the file
            that is meant, ``'model_ema.backbone.'``. None, or that entry alone: found by its patch embedding.

    Returns:
        The weights; tensors are shared with ``checkpoint`` unless they had to be rearranged.

    Raises:
        ValueError: if the file holds no weights, none under ``prefix``, names that no rule knows, or weights of the
            backbone that are not finite.
    """
    if source != 'auto' and source not in LAYOUTS:
        raise ValueError(f'source must be one of auto, {", ".join(LAYOUTS)}, got {source!r}')
    if prefix and not prefix.endswith('.'):
        prefix += '.'
    weights, others, path = weights_of(checkpoint, prefix or '')
    if prefix is None or prefix and path.startswith(prefix):
        prefix = find_prefix(weights)
    else:
        prefix = bare(prefix.removeprefix(path))
    parent = re.sub(r'[^.]+\.$', '', prefix)  # of the root
    inside = {k[len(prefix):]: v for k, v in weights.items() if k.startswith(prefix)}
    outside = {k[len(parent):]: v for k, v in weights.items() if k.startswith(parent) and not k.startswith(prefix)}
    if not inside:
        raise ValueError(f'prefix must be one that names in the checkpoint begin with, got {prefix!r}')
    if source == 'auto':
        source = detect_layout(inside, prefix)
    elif LAYOUTS[source].embedding not in inside:
        raise ValueError(f'source must be the layout of the checkpoint, got {source!r} for names without '
                         f'{LAYOUTS[source].embedding}: {first(inside)}')
    read = LAYOUTS[source].read(inside, outside)

    state, num_stages = read.state, count_stages(read.state)
    _name_last_norm(state, num_stages)
    unknown = read.unknown + [k for k in state if not OWN.fullmatch(k)]
    if unknown:
        raise ValueError(f'checkpoint must hold weights of Swin Transformer V2 only, in the layout of {source}; '
                         f'not known: {len(unknown)} ({first(unknown)})')
    axes = count_axes(state)
    _check_tensors(state, num_stages, axes)
    check_finite('checkpoint', state)

    shown = find_windows(state, read.coords, num_stages, axes)
    if path.partition('.')[0] in CONTAINERS:
        path = ''
    used = {parent + name for name in read.outside_root}
    dropped = {'outside of the backbone': [k for k in weights if not k.startswith(prefix) and k not in used],
               'beside the weights': others,
               **{rule: [prefix + name for name in names] for rule, names in read.dropped.items()}}
    return BackboneState(
        state, source, path + prefix, {k: v for k, v in dropped.items() if v}, window_sizes=shown.windows,
        position_bias=shown.position_bias, windows_assumed=shown.assumed, extras=read.extras)


def _name_last_norm(state: dict[str, Tensor], num_stages: int) -> None:
    """Renames a classifier's one norm to the norm of the last output, in place."""
    for part in ('weight', 'bias'):
        if f'norm.{part}' in state:
            last = f'norm{num_stages - 1}.{part}'
            if last in state:
                raise ValueError(f'checkpoint must hold each weight once, got norm.{part} and {last}')
            state[last] = state.pop(f'norm.{part}')
    for i in range(num_stages):
        if (f'norm{i}.weight' in state) != (f'norm{i}.bias' in state):
            raise ValueError(f'checkpoint must hold weight and bias of norm{i}, got one of them')


def _check_tensors(state: Mapping[str, Tensor], num_stages: int, axes: int) -> None:
    """Checks each tensor by its name: windows are integers in range, weights are numbers with the right axes."""
    for name, value in state.items():
        if name == WINDOWS_KEY:
            right = value.ndim == 2 and value.shape[1] == axes and not value.is_floating_point()
            requirement = f'integers, of shape (stages, {axes})'
        else:
            ndim = 2 + axes if name == EMBEDDING else next((n for end, n in RANKS.items() if name.endswith(end)), 1)
            right = value.ndim == ndim and value.is_floating_point()
            requirement = f'floating-point numbers along {ndim} axes'
        if not right:
            raise ValueError(f'{name} must hold {requirement}, got {value.dtype} of shape {tuple(value.shape)}')
        if name == WINDOWS_KEY:
            to_windows(name, value.tolist(), num_stages, axes=axes)


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors with NaN or an infinity in them, by one pass over each.

    Integers, tensors without storage (meta) and empty ones are finite.
    """
    return [name for name, value in tensors.items() if not _is_finite(value.detach())]


def check_finite(what: str, tensors: Mapping[str, Tensor]) -> None:
    """Checks that all of some tensors are finite.

    Args:
        what: What holds them, for the message.
        tensors: Names and tensors.

    Raises:
        ValueError: if one is not; the message has the number of such tensors and the first five names.
    """
    bad = not_finite(tensors)
    if bad:
        raise ValueError(f'{what} must hold finite weights, got NaN or infinity in {len(bad)} of {len(tensors)}: '
                         f'{first(bad)}')


def _is_finite(value: Tensor) -> bool:
    if not value.is_floating_point() or value.is_meta or not value.numel():
        return True
    if value.element_size() == 1:  # torch compares few kinds of float8
        value = value.float()
    stored = value.untyped_storage()
    if value.numel() * value.element_size() > stored.nbytes():  # repeated elements may not fit in memory
        value = torch.empty(0, dtype=value.dtype, device=value.device).set_(stored)
    if value.dtype == torch.float16 and value.device.type == 'cpu':  # which torch 2.1 cannot compare
        value = value.float()
    return bool(torch.stack(value.aminmax()).isfinite().all())  # NaN is the least and the largest
