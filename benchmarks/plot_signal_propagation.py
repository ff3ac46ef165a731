#!/usr/bin/env python3
"""Draws how the signal grows from block to block in trained backbones, on images: the paper's Figure 2.

For each block, after both of its additions and before patches are merged: the variance of each channel over images and
tokens, and its mean over channels; beside it the root mean square. The largest value of a model over its smallest is
printed. Weights must be trained: residual norms start at zero, so that an untrained model is the identity.

    python benchmarks/plot_signal_propagation.py work_dirs/post/swinv2_mini.py=work_dirs/post/iter_900.pth \\
        work_dirs/pre/swinv2_mini.py=work_dirs/pre/iter_900.pth --images data/mini_imagenet/val --out signal.png

Models are detectors, segmentors and classifiers; the backbone is what is drawn. A broken image is named and skipped,
and the exit code is then 1.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import DictAction
from mmengine.utils import ProgressBar
from torch import Tensor

from window_transfer import split_pair

sys.path.append(str(Path(__file__).resolve().parents[1] / 'tools'))
from predict import find_images, reason  # noqa: E402
from trained_backbone import TrainedBackbone  # noqa: E402

COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')  # Okabe and Ito
MARKERS = 'os^DvPX'
LEAST_SPAN = 10  # of an axis, highest over lowest
PLACEMENTS = dict(res_post='res-post-norm', pre='pre-norm')
NAMES = dict(variance='average channel variance', rms='root mean square')


@dataclass
class Moments:
    """Mean and variance of channels over tokens that come in parts, float64."""

    count: int = 0
    mean: Tensor | float = 0.
    squares: Tensor | float = 0.  # of deviations from the mean, summed

    def add(self, x: Tensor) -> None:
        """Adds the tokens of a map (B, H, W, C)."""
        x = x.flatten(0, -2).double().cpu()  # (B H W, C)
        mean, count = x.mean(0), self.count + len(x)
        self.squares = self.squares + (x - mean).square().sum(0) + (mean - self.mean).square() * (
            self.count * len(x) / count)
        self.mean = self.mean + (mean - self.mean) * (len(x) / count)
        self.count = count

    @property
    def variance(self) -> float:
        """The variance of each channel over tokens, and the mean of that over channels."""
        return (self.squares / self.count).mean().item()

    @property
    def rms(self) -> float:
        """The root mean square of all values."""
        return (self.squares / self.count + self.mean**2).mean().sqrt().item()


@dataclass(frozen=True)
class Curve:
    """What was measured of a model: for each stage the moments of each block."""

    label: str
    stages: list[list[Moments]]

    def values(self, name: str) -> list[list[float]]:
        """``'variance'`` or ``'rms'`` of each block of each stage."""
        return [[getattr(block, name) for block in stage] for stage in self.stages]

    def ratio(self, name: str) -> float:
        """The largest value over the smallest."""
        values = sum(self.values(name), [])
        return max(values) / min(values)


def main(argv: list[str] | None = None) -> int:
    """Reads the command line; returns the exit code: 1 if an image was skipped, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', metavar='CONFIG=CHECKPOINT', nargs='+', help='a curve each')
    parser.add_argument('--images', nargs='+', required=True, help='files, folders or patterns')
    parser.add_argument('--number', type=int, default=64, help='of images, evenly among those found (default 64)')
    parser.add_argument('--labels', nargs='+', help='of the curves (default: names of the configs)')
    parser.add_argument('--out', type=Path, default=Path('signal_propagation.png'))
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='for every config')
    args = parser.parse_args(argv)
    try:
        curves, skipped = measure(args)
        draw(curves, args.out)
    except (ValueError, OSError, ImportError) as e:
        print(f'plot_signal_propagation: {" ".join(str(e).split())}', file=sys.stderr)
        return 2
    print()
    for curve in curves:
        print(f'{curve.label}: ' + '; '.join(describe(curve, name) for name in NAMES))
    print(f'wrote {args.out}')
    for line in skipped:
        print(f'plot_signal_propagation: skipped {line}', file=sys.stderr)
    return int(bool(skipped))


def measure(args: argparse.Namespace) -> tuple[list[Curve], list[str]]:
    """Runs the models on the images; returns their curves, and the images that could not be read, with the reason.

    Raises:
        ValueError: if models, labels or images are not as they must be, or no image can be read.
    """
    if args.number < 1:
        raise ValueError(f'--number must be >= 1, got {args.number}')
    if args.labels and len(args.labels) != len(args.models):
        raise ValueError(f'--labels must be one per model, {len(args.models)}, got {len(args.labels)}')
    pairs = [split_pair(model) for model in args.models]
    paths = spread(find_images(args.images), args.number)
    curves, skipped, placements = [], {}, []
    bar = ProgressBar(len(pairs) * len(paths))
    for config, checkpoint in pairs:
        model = TrainedBackbone(config, checkpoint, device=args.device, options=args.cfg_options)
        if is_untrained(model):
            print(f'\n{checkpoint}: residual norms are 0, as in an untrained model, whose blocks are the identity')
        moments = [[Moments() for _ in stage.blocks] for stage in model.stages]
        for path in paths:
            try:
                x, _ = model.read(path)
            except Exception as e:  # what readers of images raise is as various as what is wrong with images
                skipped[path] = f'{path}: {reason(e)}'
            else:
                for step in model.run(x):
                    moments[step.stage][step.number].add(step.after)
            bar.update()
        if not moments[0][0].count:
            raise ValueError(f'--images must hold an image that can be read, got {next(iter(skipped.values()))}')
        curves.append(moments)
        placements.append(PLACEMENTS[model.net.config.norm_placement])
    labels = args.labels or names_of(pairs, placements)
    return [Curve(label, moments) for label, moments in zip(labels, curves)], list(skipped.values())


def spread(paths: Sequence[Path], number: int) -> list[Path]:
    """At most so many of them, evenly: folders of classes are sorted."""
    number = min(number, len(paths))
    return [paths[i * len(paths) // number] for i in range(number)]


def names_of(pairs: Sequence[tuple[str, str]], placements: Sequence[str]) -> list[str]:
    """Names of configs with their placement of norms, or of checkpoints where configs have one name."""
    names = [f'{Path(config).stem}, {placement}' for (config, _), placement in zip(pairs, placements)]
    if len(set(names)) < len(names):
        names = [f'{checkpoint}, {placement}' for (_, checkpoint), placement in zip(pairs, placements)]
    return names


def is_untrained(model: TrainedBackbone) -> bool:
    """Whether the norms of residual post-norm are what they are at initialisation."""
    norms = [norm for stage in model.stages for block in stage.blocks for norm in (block.norm1, block.norm2)]
    return not model.net.config.norm_first and not any(norm.weight.any() for norm in norms)


def describe(curve: Curve, name: str) -> str:
    """Where a quantity is least and largest, and its ratio."""
    places = sorted((value, i, j) for i, stage in enumerate(curve.values(name)) for j, value in enumerate(stage))
    (low, *first), (high, *last) = places[0], places[-1]
    return (f'{NAMES[name]} {low:.3g} (stage {first[0]}, block {first[1]}) to {high:.3g} (stage {last[0]}, block '
            f'{last[1]}), max/min {curve.ratio(name):.2f}')


def draw(curves: list[Curve], picture: Path) -> None:
    """Draws a curve per model, broken where patches are merged, over the block."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
    figure = Figure(figsize=(9, 3.6 + .22 * len(curves)), layout='constrained')
    lines = []
    for cell, (name, title) in zip(figure.subplots(1, 2), NAMES.items()):
        for i, curve in enumerate(curves):
            start, style = 1, dict(color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)], markersize=4,
                                   linestyle=('-', '--', ':')[i // len(COLOURS) % 3])
            for values in curve.values(name):
                line, = cell.plot(range(start, start + len(values)), values, **style)
                start += len(values)
            if name == 'variance':
                lines.append(line)
        cell.set_yscale('log')
        low, high = cell.get_ylim()
        wider = max(1., (LEAST_SPAN * low / high)**.5)  # what is flat looks flat
        cell.set_ylim(low / wider, high * wider)
        cell.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 1000 else (1,)))
        cell.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
        cell.yaxis.set_minor_formatter(NullFormatter())
        cell.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        cell.set_xlim(left=.2)
        cell.set_xlabel('block (a gap: patches are merged)')
        cell.set_ylabel(title)
        cell.grid(alpha=.3)
    labels = [f'{curve.label}: max/min of variance {curve.ratio("variance"):.3g}' for curve in curves]
    figure.legend(lines, labels, loc='outside upper center', frameon=False)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)


if __name__ == '__main__':
    sys.exit(main())
