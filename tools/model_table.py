#!/usr/bin/env python3
"""Writes the table of models in configs/README.md: what each recipe is, what it takes, and the paper's number.

All figures come from the configs: parameters and memory from the planner, multiply-accumulates counted on the meta
device, the paper's numbers from the tables of results in the READMEs of the hosts. A recipe with SwinV2-G takes half a
minute. With --check nothing is written, and the exit code is 1 if the file is not what would be written.
"""
from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config
from torch.utils.flop_counter import FlopCounterMode

from mmswinv2.core import flops  # noqa: F401  (counts attention)
from plan_memory import GPUS, Planner, build, find_backbone

ROOT = Path(__file__).resolve().parents[1]
HOSTS = dict(mmdet='Detection', mmseg='Segmentation', mmpretrain='Classification and SimMIM', mmaction2='Video')
# settings of a test from the checkpoint of another recipe, and trials on small data
NO_RECIPE = ('_mini', '_test-dev', '_imagenet-v2', '_slide', '_4x5', '896-w56', '384x16-w24')
BEGIN, END = '<!-- written by tools/model_table.py -->\n', '<!-- end -->\n'
HEAD = ('| recipe | backbone | M parameters | image | windows | GMACs | begins with | GiB per GPU | paper |\n'
        '|---|---|---|---|---|---|---|---|---|\n')


def recipes(root: Path, host: str) -> list[Path]:
    """The recipes of a host."""
    return [path for path in sorted((root / 'configs' / host).glob('*.py')) if not any(
        part in path.stem for part in NO_RECIPE)]


def paper(root: Path, host: str) -> dict[str, str]:
    """The paper's numbers by recipe, from the rows of the host's README that name one recipe per number."""
    found: dict[str, str] = {}
    for line in (root / 'configs' / host / 'README.md').read_text().partition('## Results')[2].splitlines():
        name, *cells = [cell.strip() for cell in line.strip('|').split('|')][1:] or ['']
        match = re.fullmatch(r'`([\w-]+)(?:\{([\w,]+)\})?([\w-]*)(?:\.py)?( --tta)?`', name)
        if match is None:
            continue
        sizes = match[2].split(',') if match[2] else ['']
        values = [cell for cell in cells if re.fullmatch(r'[\d. /]+', cell)]
        values = values if len(values) == len(sizes) else [' / '.join(values)] * len(sizes)
        for size, value in zip(sizes, values):
            found.setdefault(f'{match[1]}{size}{match[3]}', value + (' (multi-scale)' if match[4] else ''))
    return found


def begins_with(cfg: Config) -> str:
    """The weights that training begins with."""
    init = cfg.model.backbone.get('init_cfg')
    file = cfg.get('load_from') or init and init.checkpoint
    if file:
        return f'[{Path(file).name}]({file})' if '://' in file else f'`{Path(file).name}`'
    named = init is not None or (cfg.default_hooks.get('convert_checkpoint') or {}).get('required')
    return 'weights to be named' if named else 'random weights'


def multiply_accumulates(net: torch.nn.Module, image: tuple[int, ...]) -> float:
    """Billions of multiply-accumulates of the backbone on one image or clip."""
    with torch.device('meta'), torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.eval()
        for _ in net.maps(net.embed(torch.empty(1, net.config.in_channels, *image))):
            pass
    return counter.get_total_flops() / 2e9


def row(path: Path, numbers: dict[str, str]) -> str:
    """A line of the table."""
    cfg = Config.fromfile(path)
    gpus = 1 if 'own-data' in path.stem else GPUS
    planner = Planner(str(path), gpus=gpus)
    net = find_backbone(build(cfg))
    size = cfg.model.backbone.arch
    image = ' x '.join(map(str, planner.image[:-1] if planner.image[-1] == planner.image[-2] else planner.image))
    windows = ', '.join(map(str, cfg.model.backbone.window_size))
    memory = f'{planner.plan().peak / 2**30:.1f}' + (' + ?' if planner.heads.left_out else '')
    cells = [f'[{path.stem}]({path.parent.name}/{path.name})', size,
             f'{(planner.rest.parameters + planner.rest.others) / 1e6:.1f}', f'{image} px', windows,
             f'{multiply_accumulates(net, planner.image):.0f}', begins_with(cfg), memory, numbers.get(path.stem, '')]
    return f'| {" | ".join(cells)} |\n'


def table(root: Path, names: tuple[str, ...] = ()) -> Iterator[str]:
    """The lines of the table, with a heading per host; of the recipes in ``names``, or of all."""
    for host, title in HOSTS.items():
        yield f'\n### {title}\n\n{HEAD}'
        numbers = paper(root, host)
        for path in recipes(root, host):
            if not names or path.stem in names:
                yield row(path, numbers)


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    """Writes or checks the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='write nothing')
    args = parser.parse_args(argv)
    file = root / 'configs' / 'README.md'
    before, old, after = itertools.islice(re.split(f'(?<={BEGIN})|(?={END})', file.read_text()), 3)
    new = ''.join(table(root)).lstrip('\n')
    if args.check:
        if new != old:
            print(f'model_table: {file} is not what the configs say: run tools/model_table.py', file=sys.stderr)
        return int(new != old)
    file.write_text(before + new + after)
    return 0


if __name__ == '__main__':
    sys.exit(main())
