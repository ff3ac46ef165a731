#!/usr/bin/env python3
"""Writes model-index.yml and the metafile of each host in configs/ from the configs; mim reads them.

A config is listed with the data it is for, read from it. With --check nothing is written: the exit code is 1 if a file
is not what would be written.
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[1]
NOTE = '# Written by tools/make_metafiles.py.\n'
RESULTS = "# No results of ours yet, and no weights: the paper's numbers are in the README.\n"
# of a host: its name, the data of most of its configs, what is on top of the backbone
HOSTS = dict(mmdet=('MMDetection', 'COCO', ('FPN', 'HTC')), mmseg=('MMSegmentation', 'ADE20K', ('UPerNet',)),
             mmpretrain=('MMPretrain', 'ImageNet-1k', ('SimMIM',)), mmaction2=('MMAction2', 'Kinetics-400', ()))
DATA = dict(CocoDataset='COCO', CocoPanopticDataset='COCO', Objects365V2Dataset='Objects365 v2',
            ADE20KDataset='ADE20K', ImageNet='ImageNet-1k', CustomDataset='ImageNet-22K-ext') | {
                'mmswinv2.ImageNet22K': 'ImageNet-22K', 'mmswinv2.CocoInstances': 'own', 'mmswinv2.MaskImages': 'own',
                'mmswinv2.VideoFiles': 'Kinetics-400'}


class Dumper(yaml.SafeDumper):
    """Lists are indented, as in OpenMMLab's metafiles."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Never without indentation."""
        super().increase_indent(flow, False)


def dump(content: dict) -> str:
    """A mapping as YAML, in its own order."""
    return yaml.dump(content, Dumper=Dumper, sort_keys=False, width=120)


def training_data(path: Path) -> str:
    """The data that a config trains with.

    Raises:
        ValueError: if it has none, or of a type that is not in ``DATA``.
    """
    kind = Config.fromfile(path).get('train_dataloader', {}).get('dataset', {}).get('type')
    if kind not in DATA:
        raise ValueError(f'train_dataloader.dataset.type must be one of {", ".join(DATA)}, got {kind!r} in {path}')
    return DATA[kind]


def metafile(root: Path, host: str) -> str:
    """The metafile of a host: every config but the demo's, which is for its own data."""
    title, data, parts = HOSTS[host]
    collection = f'Swin Transformer V2 ({title})'
    head = dict(Collections=[dict(
        Name=collection,
        Metadata={
            'Training Data': data,
            'Training Techniques': ['AdamW', 'Weight Decay', 'Activation Checkpointing'],
            'Architecture': ['Swin Transformer V2', *parts],
        },
        Paper=dict(
            URL='https://arxiv.org/abs/2111.09883',
            Title='Swin Transformer V2: Scaling Up Capacity and Resolution'),
        README=f'configs/{host}/README.md')])
    paths = sorted((root / 'configs' / host).glob('*.py'), key=lambda path: path.stem)
    models = [{
        'Name': path.stem,
        'In Collection': collection,
        'Config': f'configs/{host}/{path.name}',
        'Metadata': {'Training Data': training_data(path)},
    } for path in paths if not path.stem.endswith('_mini')]
    return f'{NOTE}{dump(head)}\n{RESULTS}{dump(dict(Models=models))}'


def metafiles(root: Path) -> dict[Path, str]:
    """What each file is to contain."""
    files = {root / 'configs' / host / 'metafile.yml': metafile(root, host) for host in HOSTS}
    index = NOTE + dump(dict(Import=[path.relative_to(root).as_posix() for path in files]))
    return {root / 'model-index.yml': index, **files}


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    """Writes or checks the files; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='write nothing')
    args = parser.parse_args(argv)
    try:
        files = metafiles(root)
    except ValueError as e:
        print(f'make_metafiles: {e}', file=sys.stderr)
        return 2
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text() != text]
    for path in stale:
        name = path.relative_to(root)
        if args.check:
            print(f'make_metafiles: {name} is not what the configs say: run tools/make_metafiles.py', file=sys.stderr)
        else:
            path.write_text(files[path])
            print(f'wrote {name}')
    return int(args.check and bool(stale))


if __name__ == '__main__':
    sys.exit(main())
