#!/usr/bin/env python3
"""Pre-trains a small SwinV2 by SimMIM, draws reconstructions and fine-tunes it on few labels: ``make demo-simmim``.

It runs what a user would type: ``mim train`` and ``mim test mmpretrain configs/mmpretrain/simmim_swinv2_mini.py``, then
``mim train mmpretrain configs/mmpretrain/swinv2_simmim_mini.py`` from the pre-trained weights and from random ones. The
data are those of ``demos/make_mini_imagenet.py``.
"""
from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from demo import ROOT, run
from window_transfer import read_metrics

PRE = 'configs/mmpretrain/simmim_swinv2_mini.py'
FINE = 'configs/mmpretrain/swinv2_simmim_mini.py'
SHARE = .7  # of the mean predictor's masked L1, below which the model's is expected to be
IMAGES, SCALE = 12, 3  # drawn, and picture pixels per pixel


def main() -> int:
    """Runs the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seed', type=int, default=0, help='of data set and training (default 0)')
    parser.add_argument('--work-dir', type=Path, help='results (default work_dirs/demo_simmim, or demo_simmim_SEED)')
    args = parser.parse_args()
    start = time.time()
    given = args.work_dir and args.work_dir.absolute()
    os.chdir(ROOT)
    suffix = f'_{args.seed}' if args.seed else ''
    data = Path(f'data/mini_imagenet{suffix}')
    work_dir = given or Path(f'work_dirs/demo_simmim{suffix}')
    (work_dir / 'pre').mkdir(parents=True, exist_ok=True)
    os.environ['MMSWINV2_MINI_IMAGENET'] = f'{data}/'
    seed = f'randomness.seed={args.seed}'
    try:
        say(f'1 of 5: the data set, {data}')
        run([sys.executable, 'demos/make_mini_imagenet.py', str(data), '--seed', str(args.seed)], work_dir / 'data.log')
        say(f'2 of 5: mim train mmpretrain {PRE}')
        run(['mim', 'train', 'mmpretrain', PRE, '--work-dir', str(work_dir / 'pre'), '--cfg-options', seed],
            work_dir / 'pre.log', progress=True)
        checkpoint = (work_dir / 'pre' / 'last_checkpoint').read_text().strip()
        say(f'3 of 5: mim test mmpretrain {PRE} --checkpoint {Path(checkpoint).name}')
        run(['mim', 'test', 'mmpretrain', PRE, '--checkpoint', checkpoint, '--work-dir', str(work_dir / 'test')],
            work_dir / 'test.log')
        losses = read_metrics(work_dir / 'test')
        say('4 of 5: reconstructions of held-out images')
        draw(checkpoint, work_dir / 'reconstructions.png')
        say(f'5 of 5: mim train mmpretrain {FINE}, from these weights and from random ones, both at once')
        begins = {'pre-trained': [f'model.backbone.init_cfg.checkpoint={checkpoint}'],
                  'from scratch': ['model.backbone.init_cfg=None']}
        with ThreadPoolExecutor() as pool:
            accuracies = dict(zip(begins, pool.map(
                lambda name: fine_tune(name, work_dir / name.replace(' ', '_'), [*begins[name], seed]), begins)))
    except subprocess.CalledProcessError:
        return 1
    ours, mean = losses['simmim/masked_l1'], losses['simmim/mean_l1']
    print(f'\nmasked L1 on held-out images: {ours:.3f}; of the mean of the visible pixels: {mean:.3f}')
    for name, accuracy in accuracies.items():
        print(f'500 labels, {name:12}: {accuracy:.1f} % top-1')
    print(f'image, what is visible, reconstruction: {work_dir}/reconstructions.png')
    say(f'done in {time.time() - start:.0f} s')
    if ours > SHARE * mean:
        print(f'demo-simmim: masked L1 must be below {SHARE} of the mean predictor\'s, got {ours / mean:.2f}',
              file=sys.stderr)
        return 1
    return 0


def fine_tune(name: str, folder: Path, options: list[str]) -> float:
    """Trains on few labels and tests; returns top-1 accuracy in percent."""
    folder.mkdir(parents=True, exist_ok=True)
    run(['mim', 'train', 'mmpretrain', FINE, '--work-dir', str(folder), '--cfg-options', *options],
        folder / 'train.log', progress=True, label=f'{name:12} ', threads=1)
    checkpoint = (folder / 'last_checkpoint').read_text().strip()
    run(['mim', 'test', 'mmpretrain', FINE, '--checkpoint', checkpoint, '--work-dir', str(folder / 'test')],
        folder / 'test.log', threads=1)
    return read_metrics(folder / 'test')['accuracy/top1']


def draw(checkpoint: str, picture: Path) -> None:
    """Draws held-out images, what of them the model sees, and what it makes of it: a column each.

    Args:
        checkpoint: Of the pre-training.
        picture: PNG to write.
    """
    import numpy as np
    import torch
    from mmengine.config import Config
    from mmengine.dataset import default_collate
    from mmengine.registry import DefaultScope
    from mmengine.runner import load_checkpoint
    from PIL import Image

    cfg = Config.fromfile(PRE)
    from mmpretrain.registry import DATASETS, MODELS
    from mmpretrain.utils import register_all_modules
    register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model).eval()
        data = DATASETS.build(cfg.test_dataloader.dataset)
    load_checkpoint(model, checkpoint)
    np.random.seed(0)
    batch = [data[i * len(data) // IMAGES] for i in range(IMAGES)]
    inputs = default_collate([sample['inputs'] for sample in batch])
    batch = model.data_preprocessor(dict(inputs=inputs, data_samples=[sample['data_samples'] for sample in batch]))
    with torch.no_grad():
        samples = model(**batch, mode='predict')
    mask = model.head.pixels(torch.stack([sample.mask for sample in samples]))
    images, made = batch['inputs'], torch.stack([sample.reconstruction for sample in samples])
    rows = torch.stack([images, images * (1 - mask), images * (1 - mask) + made * mask])  # (3, B, C, h, w)
    rows = rows * model.data_preprocessor.std + model.data_preprocessor.mean
    sheet = rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # (3 h, B w, C)
    pixels = sheet.clamp(0, 255).byte().numpy().repeat(SCALE, 0).repeat(SCALE, 1)
    Image.fromarray(pixels).save(picture)


def say(text: str) -> None:
    """Prints a line at once."""
    print(f'demo-simmim: {text}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
