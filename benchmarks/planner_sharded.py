#!/usr/bin/env python3
"""The memory planner beside measured peaks of two processes that train together, by strategy.

Two processes talk through gloo on the CPU. Each takes a step with a small image, so that the optimizer's states are
there, and then one with the full image. Its C library gives freed memory back at once, so that resident memory is
memory in use. Measured is the peak of both steps above what the process had before the model was made; the larger of
the two processes counts.
"""
from __future__ import annotations

import argparse
import gc
import json
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import measure
from mmswinv2.core import BackboneConfig, SwinTransformerV2, get_arch
from planner.counting import Setting, backbone_memory
from planner.sharding import STRATEGIES, Sharding
from planner.steps import Model, Plan, plan_step

BUDGET = 64  # MiB
SIZES = dict(tiny=512, small=384, base=384)  # pixels
FIRST_SIZE = 128
WINDOWS = (32, 32, 32, 16)
PROCESSES = 2
CASES = [(arch, size, strategy) for arch, size in SIZES.items() for strategy in STRATEGIES]


def rank_main(rank: int, folder: str, arch: str, size: int, strategy: str) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=PROCESSES)
    train(0, dict(embed_dims=32, depths=[2], num_heads=[2]), FIRST_SIZE, strategy)  # the libraries' own memory
    gc.collect()
    result = train(measure.resident('VmRSS'), arch, size, strategy)
    gc.collect()  # what holds the group is gone before it is
    dist.destroy_process_group()
    Path(folder, str(rank)).write_text(json.dumps(result))


def options(arch: str | dict) -> dict:
    """Of the backbone."""
    stages = len(get_arch(arch).depths)
    return dict(arch=arch, window_size=WINDOWS[:stages], out_indices=range(stages), drop_path_rate=0., with_cp=True,
                attn_budget_mib=BUDGET)


def train(before: int, arch: str | dict, size: int, strategy: str) -> dict:
    """Builds, shards and takes two steps; gives the peak above ``before``."""
    net = SwinTransformerV2(**options(arch)).train()
    parameters = sum(p.numel() for p in net.parameters())
    model = shard(net, strategy)
    adamw = dict(lr=1e-4, foreach=True)
    if strategy == 'zero1':
        optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, **adamw)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), **adamw)
    gc.collect()
    measure.forget_peak()
    for pixels in (FIRST_SIZE, size):
        sum(o.square().mean() for o in model(torch.randn(1, 3, pixels, pixels))).backward()
        optimizer.step()
        optimizer.zero_grad()
    return dict(peak=measure.resident('VmHWM') - before, parameters=parameters)


def shard(net: SwinTransformerV2, strategy: str) -> torch.nn.Module:
    """The model as the strategies of ``mmswinv2.engine`` wrap it."""
    if strategy != 'fsdp':
        return DistributedDataParallel(net, broadcast_buffers=False, gradient_as_bucket_view=True)
    for stage in net.layers:
        for block in stage.blocks:
            fully_shard(block)
    return fully_shard(net)


def child(arch: str, size: int, strategy: str) -> dict:
    """The process with the larger peak."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(rank_main, args=(folder, arch, size, strategy), nprocs=PROCESSES)
        ranks = [json.loads(Path(folder, str(rank)).read_text()) for rank in range(PROCESSES)]
    return max(ranks, key=lambda r: r['peak'])


def predict(arch: str, size: int, strategy: str, parameters: int) -> Plan:
    """What the planner says."""
    step = backbone_memory(Setting(BackboneConfig(**options(arch)), device='cpu'), (size, size), 1)
    return plan_step(step, Model(parameters, parameters), Sharding(strategy, PROCESSES))


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', help='a Markdown file')
    parser.add_argument('--child', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.child is not None:
        print(json.dumps(child(*CASES[args.child])))
        return
    rows = []
    for i, case in enumerate(CASES):
        r = measure.in_fresh_process(__file__, i, returned=True)
        p = predict(*case, r['parameters'])
        rows.append([*case, *(f'{x / 2**20:.0f}' for x in (
            p.weights, p.gradients, p.optimizer, p.gathered, p.peak, r['peak'])), f'{p.peak / r["peak"]:.2f}'])
        print(*rows[-1], flush=True)
    parts = [f'A step with AdamW (foreach) of the backbone, {PROCESSES} processes, 1 image in each, windows '
             f'{list(WINDOWS)}, checkpointed, float32, attention within {BUDGET} MiB; MiB per process above the idle '
             'process.\n',
             measure.table(['arch', 'px', 'strategy', 'weights', 'gradients', 'optimizer', 'gathered', 'predicted',
                            'measured', 'ratio'], rows)]
    measure.report('The memory planner beside measured peaks of processes that train together', parts, args.out)


if __name__ == '__main__':
    main()
