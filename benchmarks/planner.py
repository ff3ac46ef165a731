#!/usr/bin/env python3
"""The memory planner beside measured peaks of training steps, plain and with activation checkpointing.

Each step runs in a fresh process whose C library gives freed memory back at once, so that resident memory is memory in
use. Measured is the peak above what the process had before the model was made.
"""
from __future__ import annotations

import argparse
import json

import torch

import measure
from mmswinv2.core import SwinTransformerV2
from mmswinv2.core.memory import Model, Setting, plan_step
from mmswinv2.core.sharding import Sharding
from mmswinv2.core.sizes import stage_sizes

BUDGET = 64  # MiB
# arch, pixels, backend, checkpointing
CASES = [(arch, size, backend, cp) for arch, size in (('tiny', 768), ('small', 768), ('base', 640), ('large', 512))
         for backend, cp in (('auto', False), ('auto', True))] + [('tiny', 512, 'eager', False),
                                                                  ('tiny', 512, 'eager', True)]
WINDOWS = (32, 32, 32, 16)


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--out', help='a Markdown file')
    parser.add_argument('--child', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child is not None:
        print(json.dumps(child(*CASES[args.child])))
        return
    rows = []
    for i, (arch, size, backend, cp) in enumerate(CASES):
        r = measure.in_fresh_process(__file__, i, '--threads', args.threads, returned=True)
        predicted = predict(arch, size, backend, cp, r['parameters'])
        rows.append([arch, size, backend, 'yes' if cp else 'no', f'{predicted / 2**30:.3f}', f'{r["peak"] / 2**30:.3f}',
                     f'{predicted / r["peak"]:.2f}'])
    parts = [f'Training step of the backbone, 1 image, windows {list(WINDOWS)}, float32, attention within {BUDGET} '
             'MiB; GiB above the idle process.\n',
             measure.table(['arch', 'px', 'attn_backend', 'checkpointed', 'predicted', 'measured', 'ratio'], rows)]
    measure.report('The memory planner beside measured peaks', parts, args.out)


def predict(arch: str, size: int, backend: str, cp: bool, parameters: int) -> int:
    """What the planner says, in bytes."""
    with torch.device('meta'):
        sizes = stage_sizes(SwinTransformerV2(arch, window_size=WINDOWS), (size, size), 1)
    plan = plan_step(sizes, Setting((cp,) * 4, backend, BUDGET * measure.MIB, outputs=(0, 1, 2, 3), device='cpu'),
                     Model(parameters, parameters, image_bytes=12 * size * size),
                     Sharding(state_bytes=0, foreach=False))
    return plan.peak


def child(arch: str, size: int, backend: str, cp: bool) -> dict:
    """One step in a fresh process."""
    warm = torch.nn.Linear(512, 512)  # the libraries' own memory
    warm(torch.randn(512, 512)).sum().backward()
    del warm
    before = measure.resident('VmRSS')
    measure.forget_peak()
    model = SwinTransformerV2(arch, window_size=WINDOWS, pretrained_window_sizes=(12, 12, 12, 6), drop_path_rate=0.,
                              with_cp=cp, attn_backend=backend, attn_budget_mib=BUDGET).train()
    x = torch.randn(1, 3, size, size)
    sum(o.square().mean() for o in model(x)).backward()
    return dict(peak=measure.resident('VmHWM') - before, parameters=sum(p.numel() for p in model.parameters()))


if __name__ == '__main__':
    main()
