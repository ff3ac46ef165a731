#!/usr/bin/env python3
"""Peak memory of test-time augmentation of a segmentor: ours beside mmseg's, for scales with and without a flip.

The model is UperNet with a small SwinV2 and 150 classes; each contender runs in a fresh process, on an image of noise.
Measured is the peak above what the process had when the model was there.
"""
from __future__ import annotations

import argparse
import json
import time

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData

import measure

CONFIG = 'configs/mmseg/upernet_swinv2_mini.py'
RATIOS = (.5, .75, 1., 1.25, 1.5, 1.75)


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--size', type=int, nargs=2, default=[640, 854], help='height and width of the image')
    parser.add_argument('--scales', type=int, nargs='+', default=[1, 6], help='how many of the six')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--out', help='a Markdown file')
    parser.add_argument('--child', nargs=2, metavar=('CONTENDER', 'SCALES'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        print(json.dumps(child(args.size, args.child[0], int(args.child[1]))))
        return
    rows = []
    for scales in args.scales:
        options = ['--size', *args.size, '--threads', args.threads]
        results = {name: measure.in_fresh_process(__file__, name, scales, *options, returned=True)
                   for name in ('ours', 'mmseg')}
        for name, r in results.items():
            rows.append([2 * scales, name, f'{r["peak"] / 2**30:.2f}', f'{r["peak"] / results["ours"]["peak"]:.1f}',
                         f'{r["seconds"]:.0f}'])
        same = sum(a == b for a, b in zip(results['ours']['counts'], results['mmseg']['counts']))
        print(f'{2 * scales} views: {same} of 150 classes have the same number of pixels')
    parts = [f'UperNet, 150 classes, an image of {args.size[0]} x {args.size[1]} px, scales {list(RATIOS)} (the last '
             'ones), each flipped and not; GiB above the process with its model.\n',
             measure.table(['views', '', 'peak GiB', 'times ours', 'seconds'], rows)]
    measure.report('Test-time augmentation of a segmentor', parts, args.out)


def child(size: list[int], name: str, scales: int) -> dict:
    """One image in a fresh process."""
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample
    from mmseg.utils import register_all_modules
    register_all_modules(init_default_scope=False)
    cfg = Config.fromfile(CONFIG)
    torch.manual_seed(0)
    tta = 'mmswinv2.StreamingSegTTAModel' if name == 'ours' else 'SegTTAModel'
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(dict(type=tta, module=cfg.model)).eval()
    h, w = size
    image = torch.randint(0, 255, (1, 3, h, w)).float()
    data: dict = dict(inputs=[], data_samples=[])
    for ratio in RATIOS[-scales:]:
        shape = (int(h * ratio), int(w * ratio))
        resized = torch.nn.functional.interpolate(image, shape, mode='bilinear')[0].to(torch.uint8)
        for flip in (False, True):
            sample = SegDataSample(metainfo=dict(ori_shape=(h, w), img_shape=shape, flip=flip, img_path='a.jpg',
                                                 flip_direction='horizontal' if flip else None))
            sample.gt_sem_seg = PixelData(data=torch.zeros(1, h, w, dtype=torch.int64))
            data['inputs'].append([resized.flip(-1) if flip else resized])
            data['data_samples'].append([sample])
    before = measure.resident('VmRSS')
    measure.forget_peak()
    start = time.perf_counter()
    with torch.no_grad():
        result, = model.test_step(data)
    seconds = time.perf_counter() - start
    counts = torch.bincount(result.pred_sem_seg.data.flatten(), minlength=150).tolist()
    return dict(peak=measure.resident('VmHWM') - before, seconds=seconds, counts=counts)


if __name__ == '__main__':
    main()
