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
from planner.counting import NETS, Setting, backbone_memory
from planner.sharding import Sharding
from planner.steps import Model, plan_step

BUDGET = 64  # MiB
# arch, frames and pixels, backend, checkpointing
SIZES = (('tiny', (768, 768)), ('small', (768, 768)), ('base', (640, 640)), ('large', (512, 512)),
         ('tiny', (16, 320, 320)), ('base', (16, 224, 224)))
CASES = [(arch, size, 'auto', cp) for arch, size in SIZES for cp in (False, True)] + [
    ('tiny', (512, 512), 'eager', cp) for cp in (False, True)]
WINDOWS = {2: (32, 32, 32, 16), 3: ((8, 20, 20),) * 3 + ((8, 10, 10),)}  # by axes
BEFORE = {2: (12, 12, 12, 6), 3: ((8, 12, 12),) * 3 + ((8, 6, 6),)}


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
        rows.append([arch, ' x '.join(map(str, size)), backend, 'yes' if cp else 'no', f'{predicted / 2**30:.3f}',
                     f'{r["peak"] / 2**30:.3f}', f'{predicted / r["peak"]:.2f}'])
    parts = [f'Training step of the backbone, 1 image, windows {list(WINDOWS[2])}, or 1 clip, windows (t, h, w) '
             f'{list(WINDOWS[3])} and patches of 2 frames, float32, attention within {BUDGET} '
             'MiB; GiB above the idle process.\n',
             measure.table(['arch', '[frames,] px', 'attn_backend', 'checkpointed', 'predicted', 'measured', 'ratio'],
                           rows)]
    measure.report('The memory planner beside measured peaks', parts, args.out)


def options(arch: str, size: tuple[int, ...], backend: str, cp: bool) -> dict:
    """Of the backbone."""
    axes = len(size)
    return dict(arch=arch, window_size=WINDOWS[axes], pretrained_window_sizes=BEFORE[axes], drop_path_rate=0.,
                with_cp=cp, attn_backend=backend, attn_budget_mib=BUDGET)


def predict(arch: str, size: tuple[int, ...], backend: str, cp: bool, parameters: int) -> int:
    """What the planner says, in bytes."""
    config = NETS[len(size)].config_type(**options(arch, size, backend, cp))
    return plan_step(backbone_memory(Setting(config, device='cpu'), size, 1), Model(parameters, parameters),
                     Sharding(state_bytes=0, foreach=False)).peak


def child(arch: str, size: tuple[int, ...], backend: str, cp: bool) -> dict:
    """One step in a fresh process."""
    warm = torch.nn.Linear(512, 512)  # the libraries' own memory
    warm(torch.randn(512, 512)).sum().backward()
    del warm
    before = measure.resident('VmRSS')
    measure.forget_peak()
    model = NETS[len(size)](**options(arch, size, backend, cp)).train()
    x = torch.randn(1, 3, *size)
    sum(o.square().mean() for o in model(x)).backward()
    return dict(peak=measure.resident('VmHWM') - before, parameters=sum(p.numel() for p in model.parameters()))


if __name__ == '__main__':
    main()
