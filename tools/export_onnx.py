#!/usr/bin/env python3
"""Exports a segmentor or classifier, or the backbone of any model, to ONNX, and compares onnxruntime with torch.

    python tools/export_onnx.py configs/mmseg/upernet_swinv2_mini.py work_dirs/demo_seg/iter_300.pth model.onnx \\
        --size 96 128
    python tools/export_onnx.py configs/mmdet/htc_swinv2_mini.py work_dirs/demo/iter_380.pth backbone.onnx \\
        --size 144 176 --backbone

Input is `image`, (B, 3, H, W): RGB from 0 to 255, float32; it is normalised inside, as the config says. The batch is
dynamic, height and width are those of --size. Outputs are logits, of a segmentor at the size of the image, or the
backbone's maps. Attention is the formula, with whole attention maps, whatever `attn_backend`. Needs onnx and
onnxscript, and to compare onnxruntime: pip install 'mmswinv2-plugin[onnx]'.
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmswinv2.engine import read_run
from mmswinv2.hosts import is_installed
from predict import load, read_config

TOLERANCE = 1e-4  # of the largest value


class Exported(nn.Module):
    """A model with its normalisation, from an image to logits or maps.

    Args:
        model: Of mmdet, mmseg or mmpretrain.
        backbone: Whether the backbone alone is meant.
        mean: Of each channel, RGB.
        std: The same.
    """

    def __init__(self, model: nn.Module, *, backbone: bool, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.model, self.alone = model, backbone
        self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, 3, H, W) to logits (B, classes[, H, W]), or to a map per output of the backbone."""
        x = (image - self.mean) / self.std
        if self.alone:
            return self.model.backbone(x)
        if hasattr(self.model, 'decode_head'):
            logits = self.model.decode_head(self.model.extract_feat(x))
            return (F.interpolate(logits, size=image.shape[2:], mode='bilinear',
                                  align_corners=self.model.align_corners),)
        return (self.model(x, mode='tensor'),)


def main(argv: list[str] | None = None) -> int:
    """Reads the command line; returns the exit code: 1 if onnxruntime gives something else, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', metavar='CONFIG')
    parser.add_argument('checkpoint', metavar='CHECKPOINT')
    parser.add_argument('out', metavar='OUT', type=Path)
    parser.add_argument('--size', type=int, nargs=2, required=True, metavar=('H', 'W'), help='pixels')
    parser.add_argument('--backbone', action='store_true', help='the backbone alone')
    args = parser.parse_args(argv)
    try:
        difference = export(args)
    except (ValueError, OSError, ImportError) as e:
        print(f'export_onnx: {" ".join(str(e).split())}', file=sys.stderr)
        return 2
    print(f'wrote {args.out}, {args.out.stat().st_size / 2**20:.1f} MiB')
    if difference is None:
        print('onnxruntime is not installed: not compared')
        return 0
    print(f'onnxruntime and torch differ by {difference:.1e} of the largest value, for batches of 2 and 3')
    return int(difference > TOLERANCE)


def export(args: argparse.Namespace) -> float | None:
    """Exports; returns how much onnxruntime differs, None where it is not installed.

    Raises:
        ImportError: if onnx or onnxscript is not installed.
        ValueError: if the config is of another host, or the size is too small.
    """
    for package in ('onnx', 'onnxscript'):
        if not is_installed(package):
            raise ImportError(f"{package} is not installed: pip install 'mmswinv2-plugin[onnx]'")
    if min(args.size) < 1:
        raise ValueError(f'--size must be >= 1 px, got {args.size}')
    cfg = read_config(args.config, {})
    if cfg.default_scope == 'mmdet' and not args.backbone:
        raise ValueError("CONFIG must be of mmseg or mmpretrain, or --backbone be given, got default_scope='mmdet'")
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    load(model, dict(read_run(args.checkpoint)), args.checkpoint)
    preprocessor = cfg.model.get('data_preprocessor', {})
    net = Exported(model, backbone=args.backbone, mean=list(preprocessor.get('mean', [0.] * 3)),
                   std=list(preprocessor.get('std', [1.] * 3))).eval()
    images = [255 * torch.rand(batch, 3, *args.size) for batch in (2, 3)]
    program = torch.onnx.export(net, (images[0],), dynamo=True, verbose=False, input_names=['image'],
                                dynamic_shapes=dict(image={0: torch.export.Dim('batch')}))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    program.save(str(args.out))
    return max(compare(net, image, args.out) for image in images) if is_installed('onnxruntime') else None


def compare(net: nn.Module, image: Tensor, path: Path) -> float:
    """The largest difference of an output, over its largest value."""
    import onnxruntime
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    found = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        wanted = net(image)
    return max((torch.from_numpy(a) - b).abs().max().item() / b.abs().max().item()
               for a, b in zip(found, wanted, strict=True))


if __name__ == '__main__':
    sys.exit(main())
