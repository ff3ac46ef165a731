#!/usr/bin/env python3
"""Prints where the memory of a training step goes, and which settings fit a card.

The backbone is counted whole; of the rest of the model (neck, heads) weights, gradients and optimizer states, but no
activations: leave them room. Figures are computed from sizes, for one GPU.
"""
from __future__ import annotations

import argparse
import sys

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

import mmswinv2.models  # noqa: F401
from mmswinv2.core.memory import MIB, Setting, plan_step, stage_sizes

STATES = dict(adamw=8, adam=8, sgd=4, none=0)  # bytes per parameter, float32
CARDS = (24, 40, 80, 141)  # GiB


def main(argv: list[str] | None = None) -> int:
    """Runs the planner; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', metavar='CONFIG', help='of MMDetection or MMSegmentation')
    parser.add_argument('--size', type=int, nargs='+', default=[1536], help='pixels: one, or height and width')
    parser.add_argument('--batch', type=int, default=1, help='images on the GPU')
    parser.add_argument('--gpus', type=int, default=1, help='that optimizer states are divided among with --zero 1')
    parser.add_argument('--optimizer', choices=STATES, default='adamw')
    parser.add_argument('--zero', type=int, choices=[0, 1], default=0, help='1: ZeRO stage 1')
    parser.add_argument('--amp', choices=['none', 'bf16', 'fp16'], default='none')
    parser.add_argument('--card', type=int, choices=CARDS, help='GiB; default: all')
    args = parser.parse_args(argv)
    try:
        plan(args)
    except (ValueError, OSError, KeyError, AttributeError) as e:
        print(f'plan_memory: {" ".join(str(e).split())}', file=sys.stderr)
        return 2
    return 0


def plan(args: argparse.Namespace) -> None:
    """Computes and prints.

    Raises:
        ValueError: if the config has no SwinV2 backbone or an option is out of range.
    """
    for name in ('batch', 'gpus'):
        if getattr(args, name) < 1:
            raise ValueError(f'--{name} must be >= 1, got {getattr(args, name)}')
    if len(args.size) > 2 or min(args.size) < 32:
        raise ValueError(f'--size must be one or two numbers >= 32 px, got {args.size}')
    cfg = Config.fromfile(args.config)
    net, others = build(cfg)
    height, width = args.size[0], args.size[-1]
    parameters = sum(p.numel() for p in net.parameters())
    sizes = stage_sizes(net.arch, net.window_sizes, height, width, args.batch)
    states = STATES[args.optimizer] * (parameters + others) // (args.gpus if args.zero else 1)
    num_stages = len(sizes)
    print(f'backbone {parameters / 1e6:.1f}M parameters, the rest {others / 1e6:.1f}M; '
          f'{args.batch} x {height} x {width} px; '
          f'{args.optimizer}{f", ZeRO 1 over {args.gpus} GPUs" if args.zero else ""}; '
          f'{"float32" if args.amp == "none" else args.amp}; GiB')
    head = ['', 'weights', 'gradients', 'optimizer'] + [f'stage {i + 1}' for i in range(num_stages)] + ['block', 'PEAK']
    cards = [args.card] if args.card else list(CARDS)
    print(row(head + [f'{c} GiB' for c in cards]))
    for name, cp, backend in (('plain, whole maps', False, 'reference'), ('plain', False, 'auto'),
                              ('checkpointed, whole maps', True, 'reference'), ('checkpointed', True, 'auto'),
                              ('as in the config', None, None)):
        if cp is None:
            flags = tuple(stage.with_cp for stage in net.layers)
            attn = net.layers[0].blocks[0].attn
            backend = next((k for k in ('reference',) if attn.backend.__name__.startswith(k)), 'auto')
            budget = attn.attn_budget_mib or 512
        else:
            flags, budget = (cp,) * num_stages, 512
        p = plan_step(sizes, Setting(flags, backend, budget, args.amp != 'none'), parameters=parameters,
                      optimizer_bytes=states, image_bytes=12 * args.batch * height * width, outputs=net.out_indices)
        peak = p.peak + others * (8 if args.amp == 'none' else 10)
        print(row([name, *map(gib, (p.weights + others * 4, p.gradients + others * 4, p.optimizer, *p.activations,
                                    p.workspace, peak))] + [verdict(peak, c) for c in cards]))
    print('weights, gradients and optimizer include the rest of the model, whose activations are not counted; '
          'stages: kept for the backward pass; block: for one block at the peak; the peak is less than the sum, '
          'for gradients come as activations go')


def build(cfg: Config) -> tuple[torch.nn.Module, int]:
    """The backbone on the meta device, and the number of parameters of the rest of the model."""
    backbone = cfg.get('model', {}).get('backbone')
    if not backbone or not str(backbone.get('type', '')).endswith('SwinTransformerV2'):
        raise ValueError(f'CONFIG must have a model.backbone of type mmswinv2.SwinTransformerV2, got '
                         f'{backbone and backbone.get("type")!r}')
    with torch.device('meta'):
        net = MODELS.build(dict(backbone, type='mmswinv2.SwinTransformerV2', init_cfg=None))
        scope = cfg.get('default_scope', 'mmengine')
        if scope == 'mmdet':
            from mmdet.utils import register_all_modules
        else:
            from mmseg.utils import register_all_modules
        register_all_modules(init_default_scope=False)
        with DefaultScope.overwrite_default_scope(scope):
            model = MODELS.build(cfg.model)
    return net, sum(p.numel() for n, p in model.named_parameters() if not n.startswith('backbone.'))


def gib(size: int) -> str:
    """Bytes in GiB."""
    return f'{size / 1024 / MIB:.2f}'


def verdict(peak: int, card: int) -> str:
    """Whether a peak fits a card, of which a tenth is for the context and what the allocator holds."""
    return 'fits' if peak <= .9 * card * 1024 * MIB else '-'


def row(cells: list[str]) -> str:
    """A line of the table."""
    return f'{cells[0]:<25}' + ''.join(f'{c:>10}' for c in cells[1:])


if __name__ == '__main__':
    sys.exit(main())
