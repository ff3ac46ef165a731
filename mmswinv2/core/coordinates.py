"""What tables of coordinates that are kept in a file say: its windows, and the kind of its position bias."""
from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .checks import MAX_WINDOW, Pair
from .layouts import COORDS
from .position_bias import POSITION_BIASES, relative_coordinates


def read_coordinates(coords: Mapping[str, Tensor], num_stages: int):
    """What the coordinates kept in a file say: windows, pre-training windows and kind of bias; None where unsaid."""
    found: dict[int, tuple[Pair, Pair, str]] = {}
    for name, table in coords.items():
        stage = int(COORDS.fullmatch(name)[2])
        if table.ndim != 4 or table.shape[0] != 1 or table.shape[3] != 2 or min(table.shape[1:3]) < 3:
            raise ValueError(f'{name} must have the shape (1, 2h-1, 2w-1, 2), got {tuple(table.shape)}')
        window = tuple((n + 1) // 2 for n in table.shape[1:3])
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
    windows, pretrained, kinds = zip(*(found[i] for i in range(num_stages)))
    if len(set(kinds)) > 1:
        raise ValueError(f'relative_coords_table must be of one kind in all stages, got {", ".join(kinds)}')
    return windows, pretrained, kinds[0]


def solve_coordinates(name: str, table: Tensor, window: Pair) -> tuple[Pair, str]:
    """The pre-training window that coordinates were normalised by, and whether they are log-spaced."""
    corner = table[-1, -1].double().tolist()  # coordinates of the largest offset, (h, w)
    if not all(1e-4 < c < 100 for c in corner):  # the least is 1 / MAX_WINDOW; NaN is not either
        raise ValueError(f'{name} must hold log-spaced or linear coordinates, got others (up to {corner})')
    # computed in float32 also where they were cast to float64 later
    tolerance = 16 * max(torch.finfo(t).eps for t in (table.dtype, torch.float32) if t.is_floating_point)
    fits: list[tuple[float, Pair, str]] = []
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
