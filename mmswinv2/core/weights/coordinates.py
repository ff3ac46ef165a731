"""Finds the windows and the kind of position bias of a file from the tables of coordinates that it holds."""
from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..checks import MAX_WINDOW, Windows
from ..position_bias import POSITION_BIASES, relative_coordinates
from .layouts import COORDS


def read_coordinates(coords: Mapping[str, Tensor], num_stages: int,
                     axes: int) -> tuple[Windows | None, Windows | None, str | None]:
    """Finds the windows and the kind of position bias of a file from its coordinates.

    Args:
        coords: Our names of them, and tensors.
        num_stages: Stages of the backbone.
        axes: Of its maps.

    Returns:
        (windows per stage, pre-training windows per stage, kind of position bias), each None if the file has none.

    Raises:
        ValueError: if only some stages have coordinates, or they are no coordinates or of several windows or kinds.
    """
    found: dict[int, tuple[tuple[int, ...], tuple[int, ...], str]] = {}
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


def solve_coordinates(name: str, table: Tensor, window: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
    """The pre-training window that normalised coordinates of shape (2h-1, 2w-1, 2), and their kind.

    Raises:
        ValueError: if there is none.
    """
    corner = table[(-1,) * len(window)].double().tolist()  # coordinates of the largest offset, (h, w)
    if not all(1e-4 < c < 100 for c in corner):  # the least is 1 / MAX_WINDOW; NaN fails too
        raise ValueError(f'{name} must hold log-spaced or linear coordinates, got others (up to {corner})')
    # computed in float32 also where they were cast to float64 later
    tolerance = 16 * max(torch.finfo(t).eps for t in (table.dtype, torch.float32) if t.is_floating_point)
    fits: list[tuple[float, tuple[int, ...], str]] = []
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
