#!/usr/bin/env python3
"""The whole backbone: time and peak memory of a forward pass or a training step, ours beside others.

Others are the released formula (our backbone with the blocks of ``benchmarks/released.py``), transformers and timm.

Each contender runs in a fresh process, one after another in each round. Times are medians over rounds, of the median of
``--steps`` steps after ``--warmup`` others. Peak memory is the most that the process had resident: in all, and above
what it had before the model was made. Others run at sizes at which they are right: maps that windows divide, all
attention maps in memory.

Examples::

    python benchmarks/backbone.py --arch tiny --size 512 --window 16 --contenders ours released transformers timm
    python benchmarks/backbone.py --size 768 --window 24 --mode training --plain --contenders ours released
    python benchmarks/backbone.py --arch large --size 1536 --window 32 32 32 16 --mode training --rounds 1
    python benchmarks/backbone.py --arch g --size 1536 --window 32 32 32 16 --mode forward --rounds 1
"""
from __future__ import annotations

import argparse
import json
import time

import torch

import measure
from mmswinv2.core import BACKENDS, SwinTransformerV2, get_arch
from mmswinv2.core.config import PATCH_SIZE
from released import ReleasedBlock


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', default='tiny')
    parser.add_argument('--size', type=int, default=512, help='pixels along each side')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--window', type=int, nargs='+', default=[16], help='tokens, one or one per stage')
    parser.add_argument('--pretrained-window', type=int, nargs='+', default=[12, 12, 12, 6])
    parser.add_argument('--mode', choices=['forward', 'training'], nargs='+', default=['forward', 'training'])
    parser.add_argument('--plain', action='store_true', help='training without activation checkpointing')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--warmup', type=int, default=1, help='steps before those that are timed')
    parser.add_argument('--steps', type=int, default=1, help='steps that are timed, in each process')
    parser.add_argument('--contenders', nargs='+', default=['ours'],
                        choices=['ours', 'released', 'transformers', 'timm'])
    parser.add_argument('--backend', choices=['auto', *BACKENDS], default='auto', help='of our attention')
    parser.add_argument('--out', help='a Markdown file')
    parser.add_argument('--child', nargs=2, metavar=('CONTENDER', 'MODE'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        print(json.dumps(child(args, *args.child)))
        return
    options = ['--window', *args.window, '--pretrained-window', *args.pretrained_window, *['--plain'] * args.plain]
    for key in ('arch', 'size', 'batch', 'threads', 'warmup', 'steps', 'backend'):
        options += [f'--{key}', getattr(args, key)]
    rows = []
    for mode in args.mode:
        results = {name: [] for name in args.contenders}
        for _ in range(args.rounds):
            for name in args.contenders:
                results[name].append(measure.in_fresh_process(__file__, name, mode, *options))
        for name, r in results.items():
            seconds = measure.median([x['seconds'] for x in r])
            first = measure.median([x['seconds'] for x in results[args.contenders[0]]])
            rows.append([mode, name, f'{r[0]["parameters"] / 1e6:.1f}M', f'{seconds:.3g}', f'{seconds / first:.2f}',
                         f'{measure.median([x["total"] for x in r]) / 2**30:.2f}',
                         f'{measure.median([x["above"] for x in r]) / 2**30:.2f}',
                         'yes' if all(x['finite'] for x in r) else 'NO'])
    checkpointing = 'without' if args.plain else 'with'
    parts = [f'SwinV2 {args.arch}, {args.batch} x 3 x {args.size} x {args.size}, window {args.window}, pre-trained '
             f'{args.pretrained_window}, float32, random weights, attn_backend {args.backend}; training '
             f'{checkpointing} activation checkpointing.\n',
             measure.table(['mode', '', 'parameters', 'seconds', 'times as long', 'peak GiB, whole process',
                            'peak GiB above idle', 'finite'], rows)]
    measure.report(f'Backbone {args.arch} at {args.size} px', parts, args.out)


def child(args: argparse.Namespace, name: str, mode: str) -> dict:
    """Steps in a fresh process: seconds of one, and the peak."""
    torch.randn(512, 512) @ torch.randn(512, 512)
    measure.settle_allocator()
    before = measure.resident('VmRSS')
    measure.forget_peak()
    model = build(args, name, mode)
    parameters = sum(p.numel() for p in model.parameters())
    x = torch.randn(args.batch, 3, args.size, args.size, generator=torch.Generator().manual_seed(0))
    seconds = []
    for _ in range(args.warmup + args.steps):
        model.zero_grad()
        start = time.perf_counter()
        outs = None  # of the step before
        if mode == 'forward':
            with torch.no_grad():
                outs = outputs(model, x)
        else:
            outs = outputs(model, x)
            sum(o.float().square().mean() for o in outs).backward()
        seconds.append(time.perf_counter() - start)
    finite = all(bool(o.isfinite().all()) for o in outs)
    if mode == 'training':
        finite &= all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
    peak = measure.resident('VmHWM')
    return dict(seconds=measure.median(seconds[args.warmup:]), total=peak, above=peak - before, finite=finite,
                parameters=parameters)


def outputs(model: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Feature maps, whatever a model calls them."""
    outs = model(x)
    return list(outs) if isinstance(outs, (tuple, list)) else [outs.last_hidden_state if hasattr(
        outs, 'last_hidden_state') else outs]


def build(args: argparse.Namespace, name: str, mode: str) -> torch.nn.Module:
    """A model with random weights, made without a second copy of them."""
    arch = get_arch(args.arch)
    window = args.window[0] if len(args.window) == 1 else args.window
    pretrained = args.pretrained_window[0] if len(args.pretrained_window) == 1 else args.pretrained_window
    if name in ('ours', 'released'):
        with torch.device('meta'):
            model = SwinTransformerV2(args.arch, window_size=window, pretrained_window_sizes=pretrained,
                                      drop_path_rate=0., with_cp=mode == 'training' and not args.plain,
                                      attn_backend=args.backend)
        model.to_empty(device='cpu')
        if name == 'released':
            with_released_blocks(model, args.size)
    else:
        sizes = dict(embed_dim=arch.embed_dims, depths=list(arch.depths), num_heads=list(arch.num_heads),
                     window_size=args.window[0])
        pretrained = pretrained if isinstance(pretrained, list) else [pretrained] * len(arch.depths)
        if name == 'transformers':
            from transformers import Swinv2Config, Swinv2Model
            model = Swinv2Model(Swinv2Config(image_size=args.size, pretrained_window_sizes=pretrained,
                                             drop_path_rate=0., **sizes), add_pooling_layer=False)
            if mode == 'training' and not args.plain:
                model.gradient_checkpointing_enable()
        else:
            from timm.models.swin_transformer_v2 import SwinTransformerV2 as Timm
            model = Timm(img_size=args.size, pretrained_window_sizes=pretrained, drop_path_rate=0., num_classes=0,
                         **sizes)
            model.set_grad_checkpointing(mode == 'training' and not args.plain)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.ndim > 1 and not key.endswith('logit_scale'):
                p.normal_(0, .02, generator=generator)
            else:
                p.fill_(2.3 if key.endswith('logit_scale') else float('norm' in key and key.endswith('weight')))
    return model.train(mode == 'training')


def with_released_blocks(model: SwinTransformerV2, size: int) -> None:
    """Puts the released formula in the place of our blocks.

    Raises:
        ValueError: if windows do not divide the map of a stage, or the architecture has norms that it does not.
    """
    if model.arch.extra_norm_every_n_blocks:
        raise ValueError('the arch of released must have no extra norms, got '
                         f'{model.arch.extra_norm_every_n_blocks} (extra_norm_every_n_blocks)')
    for i, stage in enumerate(model.layers):
        side = -(-size // (PATCH_SIZE * 2**i))
        window = min(model.window_sizes[i][0], side)
        if side % window:
            raise ValueError(f'the window of released must divide the map of stage {i}, {side} tokens, got {window}')
        for j in range(len(stage.blocks)):
            shift = window // 2 if j % 2 and side > window else 0
            stage.blocks[j] = ReleasedBlock(model.arch.dims[i], model.arch.num_heads[i], window, shift, (side, side))


if __name__ == '__main__':
    main()
