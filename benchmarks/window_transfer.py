#!/usr/bin/env python3
"""Tests classifiers at larger images and windows than they were trained with: the rows of the paper's Table 1.

Image and window grow together, so that the number of windows stays that of training; the pre-training window does not.
Each test is what a user would type: ``mim test mmpretrain CONFIG --checkpoint FILE --cfg-options ...``. The table is
printed and written to OUT/table.md, the curves to OUT/curves.png, the numbers to OUT/rows.json.

    python benchmarks/window_transfer.py configs/mmpretrain/swinv2_t_256-w8.py=work_dirs/log/epoch_300.pth \\
        configs/mmpretrain/swinv2_parameterized_mini.py=work_dirs/table/epoch_300.pth --out work_dirs/transfer
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from mmengine.config import Config

from mmswinv2.hosts import without_traceback_of_mim

RATIOS = ('1', '3/2', '2', '5/2', '3')  # Table 1: windows 8, 12, 16, 20, 24 for 256 to 768 px


@dataclass(frozen=True)
class Setting:
    """A test: tokens of the window in the first stage, pixels of an image, and what it takes after --cfg-options."""

    window: int
    size: int
    options: list[str]


def main(argv: list[str] | None = None) -> int:
    """Runs the tests; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', metavar='CONFIG=CHECKPOINT', nargs='+', help='a row of the table each')
    parser.add_argument('--ratios', nargs='+', default=RATIOS, metavar='RATIO', help='of window and image to those of '
                        f'the config (default {" ".join(RATIOS)})')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/window_transfer'), help='folder of the results')
    parser.add_argument('--jobs', type=int, default=1, help='tests at once')
    parser.add_argument('--cfg-options', nargs='+', default=[], help='for every test')
    args = parser.parse_args(argv)
    try:
        rows = transfer(args.models, args.ratios, args.out, jobs=args.jobs, options=args.cfg_options)
    except ValueError as e:
        parser.error(str(e))
    except subprocess.CalledProcessError:
        return 1
    print(f'\n{table(rows)}\nwrote {args.out}/table.md, curves.png and rows.json')
    return 0


def transfer(models: list[str], ratios: list[str], out: Path, *, jobs: int = 1,
             options: list[str] = ()) -> dict[str, dict[str, float]]:
    """Tests each model with each ratio.

    Args:
        models: ``CONFIG=CHECKPOINT`` each.
        ratios: As ``3/2``, of window and image to those of the config.
        out: Folder of the results.
        jobs: Tests at once.
        options: For every test, as after --cfg-options.

    Returns:
        For each model, by the name of its config: top-1 accuracy in percent, by ``window/size``.

    Raises:
        ValueError: if a model is not given as above, or a ratio makes no whole window and size.
        CalledProcessError: if a test fails; the end of its output has been printed then.
    """
    tasks = []
    for model in models:
        config, checkpoint = split_pair(model)
        for setting in settings(Config.fromfile(config), ratios):
            tasks.append((config, checkpoint, setting))
    if jobs < 1:
        raise ValueError(f'--jobs must be >= 1, got {jobs}')
    rows: dict[str, dict[str, float]] = {}
    with ThreadPoolExecutor(jobs) as pool:
        accuracies = pool.map(lambda task: test(*task, out, options, threads=jobs > 1), tasks)
        for (config, _, setting), accuracy in zip(tasks, accuracies):
            rows.setdefault(Path(config).stem, {})[f'{setting.window}/{setting.size}'] = accuracy
    out.mkdir(parents=True, exist_ok=True)
    (out / 'rows.json').write_text(json.dumps(rows, indent=1))
    (out / 'table.md').write_text(table(rows))
    draw(rows, out / 'curves.png')
    return rows


def split_pair(model: str) -> tuple[str, str]:
    """``CONFIG=CHECKPOINT`` as two names of files.

    Raises:
        ValueError: if it is not that, or one of them is no file.
    """
    config, equals, checkpoint = model.partition('=')
    if not equals or not Path(config).is_file() or not Path(checkpoint).is_file():
        raise ValueError(f'each model must be CONFIG=CHECKPOINT, two files, got {model!r}')
    return config, checkpoint


def settings(cfg: Config, ratios: list[str]) -> list[Setting]:
    """The tests of a config.

    Raises:
        ValueError: if it is no classifier's, or a ratio is none, or makes no whole number of tokens or pixels.
    """
    pipeline = cfg.get('test_dataloader', {}).get('dataset', {}).get('pipeline', [])
    sizes = {i: step for i, step in enumerate(pipeline) if step['type'] in ('Resize', 'ResizeEdge', 'CenterCrop')}
    windows = cfg.model.backbone.get('window_size', cfg.model.backbone.get('pretrained_window_sizes'))
    if not sizes or cfg.model.type != 'ImageClassifier':
        raise ValueError('each config must be of a classifier, with Resize or CenterCrop in its test pipeline, got '
                         f'{cfg.filename}')
    found = []
    for text in ratios:
        try:
            ratio = Fraction(text)
        except (ValueError, ZeroDivisionError) as e:
            raise ValueError(f'--ratios must be numbers such as 3/2, got {text!r}') from e

        def scaled(value: int, what: str, ratio: Fraction = ratio, text: str = text) -> int:
            if ratio <= 0 or (value * ratio).denominator != 1:
                raise ValueError(f'--ratios must make a whole {what} of {value}, got {text}')
            return int(value * ratio)
        options, last = [], 0
        for i, step in sizes.items():
            key = f'test_dataloader.dataset.pipeline.{i}'
            if step['type'] == 'CenterCrop':
                last = scaled(step['crop_size'], 'number of pixels')
                options.append(f'{key}.crop_size={last}')
            elif step['type'] == 'ResizeEdge':
                last = round(step['scale'] * ratio)
                options.append(f'{key}.scale={last}')
            else:
                last = scaled(step['scale'][0], 'number of pixels')
                options.append(f'{key}.scale=({last},{last})')
        tokens = [scaled(window, 'number of tokens') for window in windows]
        options.append(f'model.backbone.window_size=[{",".join(map(str, tokens))}]')
        found.append(Setting(tokens[0], last, options))
    return found


def test(config: str, checkpoint: str, setting: Setting, out: Path, options: list[str], *, threads: bool) -> float:
    """Runs a test; returns top-1 accuracy in percent.

    Args:
        config: Its file.
        checkpoint: The weights.
        setting: Window and size.
        out: Folder of the results.
        options: More options.
        threads: Whether other tests run beside it, so that it is given one thread.

    Raises:
        CalledProcessError: if it fails; the end of its output has been printed then.
    """
    folder = out / Path(config).stem / f'w{setting.window}'
    folder.mkdir(parents=True, exist_ok=True)
    command = ['mim', 'test', 'mmpretrain', config, '--checkpoint', checkpoint, '--work-dir', str(folder),
               '--cfg-options', *setting.options, *options]
    env = dict(os.environ, PATH=f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}',
               PYTHONWARNINGS='ignore', **dict(OMP_NUM_THREADS='1') if threads else {})
    result = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = without_traceback_of_mim(result.stdout)
    (folder / 'test.log').write_text(output)
    if result.returncode:
        print(f'window_transfer: {" ".join(command)} failed with exit code {result.returncode}:',
              *output.splitlines()[-30:], sep='\n', file=sys.stderr)
        raise subprocess.CalledProcessError(result.returncode, command)
    accuracy = read_metrics(folder)['accuracy/top1']
    print(f'   {Path(config).stem}: window {setting.window}, {setting.size} px: {accuracy:.2f}', flush=True)
    return accuracy


def read_metrics(folder: Path) -> dict[str, float]:
    """What the last test in a folder measured."""
    return json.loads(max(folder.glob('*/*.json'), key=os.path.getmtime).read_text())


def table(rows: dict[str, dict[str, float]]) -> str:
    """The rows as Markdown."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = ['| top-1, window/size | ' + ' | '.join(columns) + ' |', '|---' * (len(columns) + 1) + '|']
    for name, row in rows.items():
        lines.append(f'| {name} | ' + ' | '.join(f'{row[c]:.1f}' if c in row else '' for c in columns) + ' |')
    return '\n'.join(lines) + '\n'


def draw(rows: dict[str, dict[str, float]], picture: Path) -> None:
    """Draws accuracy over the window, a curve per row."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(6, 4), layout='constrained')
    axes = figure.subplots()
    for name, row in rows.items():
        axes.plot([int(column.split('/')[0]) for column in row], list(row.values()), marker='o', label=name)
    axes.set_xlabel('window at test, tokens (the image grows with it)')
    axes.set_ylabel('top-1 accuracy, %')
    axes.grid(alpha=.3)
    axes.legend()
    figure.savefig(picture, dpi=120)


if __name__ == '__main__':
    sys.exit(main())
