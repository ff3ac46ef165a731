#!/usr/bin/env python3
"""Peak memory and time of ``mim test mmdet CONFIG --checkpoint FILE --tta`` on one large image, by ``features``.

The model is the demo's, with random weights and as many detections as it may have; the data set is one image of noise.
Peak memory is the most that any process of the command had resident.
"""
from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
from mmswinv2.hosts import mim_name

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs' / 'mmdet' / 'htc_swinv2_mini.py'
TTA = """_base_ = {base!r}
tta_model = dict(features={features!r})
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale=(3000, short), keep_ratio=True) for short in {scales}],
        [dict(type='RandomFlip', prob=0.), dict(type='RandomFlip', prob=1.)],
        [dict(type='LoadAnnotations', with_bbox=True, with_mask=True)],
        [dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip',
                                               'flip_direction'))]])
]
model = dict(test_cfg=dict(rpn=dict(_delete_=True, nms_pre=1000, max_per_img=1000, min_bbox_size=0,
                                    nms=dict(type='nms', iou_threshold=.7))))
"""


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--size', type=int, default=1536, help='pixels along each side')
    parser.add_argument('--scales', type=int, nargs='+', default=[600, 800, 1000, 1200, 1400, 1600])
    parser.add_argument('--features', nargs='+', default=['keep', 'recompute'])
    parser.add_argument('--out', help='a Markdown file')
    parser.add_argument('--child', nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        subprocess.run(args.child, check=True)
        print(json.dumps(dict(peak=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder, args.size)
        checkpoint = make_checkpoint(folder)
        for features in args.features:
            config = folder / f'{features}.py'
            config.write_text(TTA.format(base=str(CONFIG), features=features, scales=tuple(args.scales)))
            os.environ['MMSWINV2_MINI_COCO'] = f'{folder}/'
            os.environ['PATH'] = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
            command = ['mim', 'test', mim_name('mmdet'), str(config), '--checkpoint', str(checkpoint), '--work-dir',
                       str(folder / 'work'), '--tta']
            start = time.perf_counter()
            result = subprocess.run([sys.executable, __file__, '--child', *command], capture_output=True, text=True)
            seconds = time.perf_counter() - start
            if result.returncode or not re.search('bbox_mAP', result.stdout + result.stderr):
                raise RuntimeError(f'{" ".join(command)} failed:\n{result.stdout[-1000:]}{result.stderr[-2000:]}')
            peak = json.loads(result.stdout.splitlines()[-1])['peak']
            rows.append([features, f'{peak / 2**30:.2f}', f'{seconds:.0f}'])
    parts = [f'`mim test ... --tta` with the demo\'s HTC++ on one image of {args.size} x {args.size} px, short sides '
             f'{args.scales}, each flipped and not: {2 * len(args.scales)} views.\n',
             measure.table(['features', 'peak GiB, whole process', 'seconds, start of the process included'], rows)]
    measure.report('Test-time augmentation of boxes and masks', parts, args.out)


def make_data(folder: Path, size: int) -> None:
    """A data set of one image, in the place of the demo's."""
    import numpy as np
    from PIL import Image
    (folder / 'val').mkdir()
    (folder / 'annotations').mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (size // 8, size // 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((size, size)).save(folder / 'val' / '1.png')
    square = [100, 100, 400, 100, 400, 400, 100, 400]
    data = dict(images=[dict(id=1, file_name='1.png', width=size, height=size)],
                annotations=[dict(id=1, image_id=1, category_id=1, bbox=[100, 100, 300, 300], area=90000, iscrowd=0,
                                  segmentation=[square])],
                categories=[dict(id=i + 1, name=n) for i, n in enumerate(('disc', 'triangle', 'star', 'square'))])
    (folder / 'annotations' / 'instances_val.json').write_text(json.dumps(data))


def make_checkpoint(folder: Path) -> Path:
    """The demo's model with random weights."""
    import torch
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config
    register_all_modules()
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(CONFIG).model)
    torch.save(dict(state_dict=model.state_dict()), folder / 'model.pth')
    return folder / 'model.pth'


if __name__ == '__main__':
    main()
