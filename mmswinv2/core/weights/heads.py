"""Chooses the rows of a classifier's head in a file that a model with fewer classes takes."""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor


def read_rows(path: str | os.PathLike) -> list[int]:
    """Reads which row of a larger head each class takes: one number per line, from 0.

    The release has such a list for ImageNet-22K to 1K, ``data/map22kto1k.txt``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is no number >= 0, or there is none.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'head_rows must be a file with one row number >= 0 per class, there is none at {path}')
    lines = Path(path).read_text(encoding='utf-8').split()
    if not lines or not all(line.isdecimal() for line in lines):
        wrong = next((line for line in lines if not line.isdecimal()), 'nothing')
        raise ValueError(f'head_rows must be a file with one row number >= 0 per class, got {wrong!r} in {path}')
    return [int(line) for line in lines]


def take_rows(head: Mapping[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
    """Takes rows of a head, in the order of the classes that they are for.

    Args:
        head: Names and tensors of K rows each.
        rows: Row numbers, one per class.

    Raises:
        ValueError: if a row is not in the head.
    """
    taken = {}
    for name, value in head.items():
        if max(rows) >= len(value):
            raise ValueError(f'head_rows must be numbers below the {len(value)} rows of {name}, got {max(rows)}')
        taken[name] = value.index_select(0, torch.tensor(rows))
    return taken
