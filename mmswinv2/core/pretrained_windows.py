"""The pre-training windows of weights: read from a file, checked against the config, and stored.

They normalise the coordinates of a continuous position bias. Our state dicts have an entry for them (``WINDOWS_KEY``).
In files of other projects, tables of coordinates show them. A parameterised table has no coordinates: its number of
rows shows its own window, if that is square. Where a file shows nothing, the config must say them.

Windows are in tokens, one entry per stage, each with one number per axis: (h, w) or (t, h, w).
"""
from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .arch import get_arch
from .checks import MAX_WINDOW, Window, Windows, as_configured
from .config import BackboneConfig
from .position_bias import POSITION_BIASES, from_rows, relative_coordinates, resize, table_rows, to_rows

WINDOWS_KEY = 'pretrained_window_sizes'  # argument of a backbone, and entry of its state dict, (stages, axes)
EMBEDDING = 'patch_embed.proj.weight'  # which has the axes of the maps
COORDS = re.compile(r'layers\.(\d)\.(?:blocks\.\d+\.attn|rel_pos_bias)\.relative_coords_table')


def read_windows(state: Mapping[str, Tensor], prefix: str = '') -> Windows | None:
    """The windows in a state dict; None where it has no entry for them."""
    saved = state.get(prefix + WINDOWS_KEY)
    return None if saved is None else tuple(tuple(int(n) for n in window) for window in saved.tolist())


def store_windows(state: dict[str, Tensor], windows: Windows, prefix: str = '') -> None:
    """Puts windows into a state dict: int64, shape (stages, axes), on the CPU."""
    state[prefix + WINDOWS_KEY] = torch.tensor(windows, dtype=torch.int64, device='cpu')


def windows_unknown(saved: Windows | None, config: BackboneConfig) -> bool:
    """Whether neither a state dict, of the windows ``saved``, nor the config says them: its weights cannot be used."""
    return saved is None and config.pretrained_window_sizes is None


def check_same(name: str, got: Windows | None, right: Windows | None, rule: str) -> None:
    """Checks that two statements of windows agree, if both are given.

    Raises:
        ValueError: if they differ; the message names ``name`` as the source of ``got``, and describes ``right`` by
            ``rule``.
    """
    if got is not None and right is not None and got != right:
        raise ValueError(f'{name} must be {rule}, {as_configured(right)}, got {as_configured(got)}')


def table_name(stage: int, block: int = 0) -> str:
    """The name of a block's parameterised table in a state dict; its shape is (prod(2W-1), nH)."""
    return f'layers.{stage}.blocks.{block}.attn.relative_position_bias_table'


def table_window(rows: int, known: Window | None = None, *, otherwise: Window | None = None, axes: int = 2) -> Window:
    """Finds the window of a parameterised table from its rows: tries ``known``, a square window, then ``otherwise``.

    With three axes no square window is tried.

    Raises:
        ValueError: if no such window has that many rows.
    """
    for window in (known, _square(rows, axes), otherwise):
        if window is not None and rows == table_rows(window):
            return tuple(window)
    tried = [window for window in (known, otherwise) if window]
    form = '(2h-1)(2w-1) rows of a window (h, w) that is square or' if axes == 2 else (
        '(2t-1)(2h-1)(2w-1) rows of a window (t, h, w) that is')
    raise ValueError(f'relative_position_bias_table must have {form} one of {tried}, got {rows}')


def _square(rows: int, axes: int) -> Window | None:
    """The square window assumed for a table of ``rows`` rows; None for one over time, which has no usual form."""
    return ((math.isqrt(rows) + 1) // 2,) * 2 if axes == 2 else None


def rows_fit(state: Mapping[str, Tensor], windows: Windows) -> bool:
    """Whether parameterised tables have the rows of these windows."""
    return all(len(state[table_name(i)]) == table_rows(window) for i, window in enumerate(windows))


class Shown(NamedTuple):
    """What the tables of a file show; None where they show nothing."""

    windows: Windows | None
    position_bias: str | None  # of a continuous bias
    assumed: bool  # whether there are parameterised tables, and nothing says their windows


def find_windows(state: dict[str, Tensor], coords: Mapping[str, Tensor], num_stages: int, axes: int) -> Shown:
    """Finds the windows of a file, and puts those of pre-training into its state dict where it does not say them.

    ``state`` holds the weights, ``coords`` the tables of coordinates (``COORDS``), both in our names.

    Raises:
        ValueError: if sources contradict each other, or tables are no coordinates.
    """
    windows, pretrained, kind = _read_coordinates(coords, num_stages, axes)
    tables = [state[table_name(i)] for i in range(num_stages) if table_name(i) in state]
    assumed = WINDOWS_KEY not in state and len(tables) == num_stages
    if assumed:
        with contextlib.suppress(ValueError):  # of windows that are not square: the config must say them
            windows = pretrained = tuple(table_window(len(table), axes=axes) for table in tables)
    check_same(WINDOWS_KEY, read_windows(state), pretrained, 'what the coordinates in the checkpoint are normalised by')
    if pretrained is not None and WINDOWS_KEY not in state:
        store_windows(state, pretrained)
    return Shown(windows, kind, assumed)


def _read_coordinates(coords: Mapping[str, Tensor], num_stages: int,
                      axes: int) -> tuple[Windows | None, Windows | None, str | None]:
    """Windows, pre-training windows and the kind of position bias, of tables of coordinates; each None without any."""
    found: dict[int, tuple[Window, Window, str]] = {}
    for name, table in coords.items():
        match = COORDS.fullmatch(name)
        assert match is not None
        stage, sizes = int(match[1]), table.shape[1:-1]
        if len(sizes) != axes or table.shape[0] != 1 or table.shape[-1] != axes or min(sizes) < 3 or any(
                n % 2 == 0 for n in sizes):
            shape = ', '.join(f'2{axis}-1' for axis in 'thw'[-axes:])
            raise ValueError(f'{name} must have the shape (1, {shape}, {axes}), got {tuple(table.shape)}')
        window = tuple((n + 1) // 2 for n in sizes)
        if max(window) > MAX_WINDOW:
            raise ValueError(f'{name} must be of a window of at most {MAX_WINDOW} tokens, got {window}')
        pretrained, kind = solve_coordinates(name, table[0], window)
        if found.setdefault(stage, (window, pretrained, kind)) != (window, pretrained, kind):
            raise ValueError(f'{name} must be the same in all blocks of a stage')
    if not found:
        return None, None, None
    if set(found) != set(range(num_stages)):
        raise ValueError(f'relative_coords_table must be there for all {num_stages} stages or none, got stages '
                         f'{sorted(found)}')
    windows, normalisers, kinds = zip(*(found[i] for i in range(num_stages)))
    if len(set(kinds)) > 1:
        raise ValueError(f'relative_coords_table must be of one kind in all stages, got {", ".join(kinds)}')
    return windows, normalisers, kinds[0]


def solve_coordinates(name: str, table: Tensor, window: Window) -> tuple[Window, str]:
    """Solves coordinates, (2W-1, ..., axes), for the pre-training window that normalised them, and their kind.

    Raises:
        ValueError: if there is none; the message has the name of the table.
    """
    corner = table[(-1,) * len(window)].double().tolist()  # coordinates of the largest offset, (h, w)
    if not all(1e-4 < c < 100 for c in corner):  # the least is 1 / MAX_WINDOW; NaN fails too
        raise ValueError(f'{name} must hold log-spaced or linear coordinates, got others (up to {corner})')
    # computed in float32 also where they were cast to float64 later
    tolerance = 16 * max(torch.finfo(t).eps for t in (table.dtype, torch.float32) if t.is_floating_point)
    fits: list[tuple[float, Window, str]] = []
    for kind in POSITION_BIASES[:2]:
        largest = [(2**(3 * c) - 1) / 8 if kind == 'log_cpb' else c for c in corner]  # (W - 1) / (P - 1)
        pretrained = tuple(1 + round((w - 1) / x) for w, x in zip(window, largest))
        if min(pretrained) < 2 or max(pretrained) > MAX_WINDOW:
            continue
        ours = relative_coordinates(window, pretrained, log_spaced=kind == 'log_cpb', dtype=torch.float64)
        theirs = table.double().cpu()
        if torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance):
            fits.append(((ours - theirs).abs().max().item(), pretrained, kind))
    if fits:  # coordinates in half precision may be near to both kinds
        return min(fits)[1:]
    raise ValueError(f'{name} must hold log-spaced or linear coordinates, got others (up to {corner})')


def keep_windows(net: nn.Module, config: BackboneConfig) -> None:
    """Makes a backbone store its pre-training windows in its state dict, and check those of a state dict that it loads.

    If neither the state dict nor the config says them, ``WINDOWS_KEY`` is a missing key. Parameterised tables are
    resized to the backbone's windows.
    """
    net._register_state_dict_hook(partial(_save, saved_windows(config)))
    net._register_load_state_dict_pre_hook(partial(_load, config))


def saved_windows(config: BackboneConfig) -> Windows:
    """The windows in a backbone's state dict: a table's own, if its rows do not show it, else those of pre-training."""
    if config.position_bias != 'parameterized':
        return config.pretrained_windows
    return tuple(own if _square(table_rows(own), config.axes) != own or table_rows(own) == table_rows(pretrained)
                 else pretrained for own, pretrained in zip(config.windows, config.pretrained_windows))


def _save(windows: Windows, net: nn.Module, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
    store_windows(state_dict, windows, prefix)


def _load(config: BackboneConfig, state_dict: dict[str, Any], prefix: str, metadata: object, strict: bool,
          missing_keys: list[str], *_: object) -> None:
    weight = state_dict.get(prefix + EMBEDDING)
    if weight is not None and weight.ndim != 2 + config.axes:
        raise ValueError(f'{prefix}{EMBEDDING} must be of patches along {config.axes} axes, got shape '
                         f'{tuple(weight.shape)}; mmswinv2.core.weights.load_backbone inflates weights on images '
                         'for video')
    saved, configured = read_windows(state_dict, prefix), config.pretrained_windows
    state_dict.pop(prefix + WINDOWS_KEY, None)
    if saved is not None:
        saved = (*saved, *configured[len(saved):])[:len(configured)]  # of more or fewer stages: torch names those
        _check_configured(saved, configured, saved_windows(config))
    elif windows_unknown(saved, config):
        missing_keys.append(prefix + WINDOWS_KEY)
    _resize_tables(state_dict, prefix, saved or configured, config)


def _check_configured(saved: Windows, configured: Windows, saved_as: Windows) -> None:
    """Checks that a state dict says, in each stage, the window of the config or what that would be saved as."""
    if any(window not in pair for window, pair in zip(saved, zip(configured, saved_as))):
        raise ValueError(
            f'{WINDOWS_KEY} must be what the checkpoint was pre-trained with, {as_configured(saved)}, got '
            f'{as_configured(configured)}; set {WINDOWS_KEY}={as_configured(saved)} in the config of the backbone')


def _resize_tables(state_dict: dict[str, Any], prefix: str, windows: Sequence[Window], config: BackboneConfig) -> None:
    """Resizes parameterised tables, of ``windows`` as far as is known, to the windows of the config."""
    arch = get_arch(config.arch)
    for i, (own, depth, heads) in enumerate(zip(config.windows, arch.depths, arch.num_heads)):
        for key in (prefix + table_name(i, j) for j in range(depth)):
            table = state_dict.get(key)
            if table is not None and table.ndim == 2 and table.shape[1] == heads:  # else torch says what is wrong
                old = table_window(len(table), windows[i], otherwise=own, axes=config.axes)
                state_dict[key] = to_rows(resize(from_rows(table, old), own)) if old != own else table
