#!/usr/bin/env python3
"""One SwinV2 block: ours beside the released formula, transformers and (where installed) timm, with the same weights.

Runs are interleaved; times are medians. Peak memory is the most that a fresh process had resident, above what it had
before the block and its input were made. The fraction of the matrix-product rate counts the operations of the block's
matrix products as the released formula does them (padding and masked pairs included), over the time, over the rate of a
2048 x 2048 product measured in the same run.
"""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

import measure
from mmswinv2.core import BACKENDS, BlockConfig, SwinBlock
from mmswinv2.core.attention.cells import backward, forward
from mmswinv2.core.grid import Axis
from released import ReleasedBlock

OURS = ('auto', *BACKENDS)


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--map', type=int, default=192, help='tokens along each side')
    parser.add_argument('--window', type=int, default=32)
    parser.add_argument('--dim', type=int, default=96)
    parser.add_argument('--heads', type=int, default=3)
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--repeats', type=int, default=7)
    parser.add_argument('--curve', type=int, nargs='*', default=[96, 192, 288, 384], help='growing maps; none to skip')
    parser.add_argument('--contenders', nargs='+', help='released is always among them',
                        default=['auto', 'eager', 'cells', 'released', 'transformers', 'timm'])
    parser.add_argument('--busy', type=int, metavar='NICENESS', help='times are taken beside another process that '
                        'keeps a core busy, at this niceness (0 to 19)')
    parser.add_argument('--out', help='a Markdown file')
    parser.add_argument('--child', nargs=2, metavar=('CONTENDER', 'MODE'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.child:
        print(json.dumps(child(args, *args.child)))
        return

    contenders = [name for name in dict.fromkeys([*args.contenders, 'released']) if name != 'timm' or available('timm')]
    parts = [f'Block of C = {args.dim}, {args.heads} heads, map {args.map} x {args.map}, batch {args.batch}, window '
             f'{args.window}, shift {args.window // 2}, float32.\n']
    if args.busy is not None:
        parts.append(f'Times are beside another process that keeps a core busy, at niceness {args.busy}.\n')
    x = torch.randn(args.batch, args.map, args.map, args.dim)
    blocks = {name: build(name, args, args.map) for name in contenders}
    for name, block in blocks.items():  # the same weights, the same result
        with torch.no_grad():
            difference = (block(x) - blocks['released'](x)).abs().max().item()
        assert difference < 2e-4, f'{name} is off by {difference}'
    for mode in ('forward', 'training'):
        calls = {name: (lambda f=step(block, x, mode): f()) for name, block in blocks.items()}
        product, operations = measure.matmul_call()
        calls['product'] = product
        with measure.neighbour(args.busy):
            seconds = {k: measure.median(v) for k, v in measure.interleaved(calls, args.repeats).items()}
        rate = operations / seconds['product']
        work = flops(args) * (1 if mode == 'forward' else 3)
        peaks = {name: peak(args, name, mode, args.map) for name in contenders}
        rows = [[name, f'{1000 * seconds[name]:.0f}', f'{seconds["released"] / seconds[name]:.2f}',
                 f'{peaks[name]:.0f}', f'{peaks["released"] / peaks[name]:.1f}',
                 f'{work / seconds[name] / rate:.0%}'] for name in contenders]
        title = 'Forward, no gradient' if mode == 'forward' else 'Forward and backward'
        parts += [f'## {title}\n', f'{work / 1e9:.1f} GFLOP; the machine did {rate / 1e9:.0f} GFLOP/s.\n',
                  measure.table(['', 'ms', 'times as fast', 'peak MiB', 'times as small', 'of the product rate'], rows)]
    if args.curve:
        rows = []
        for size in args.curve:
            y = torch.randn(args.batch, size, size, args.dim)
            block = build('auto', args, size)
            windows = args.batch * (-(-size // args.window))**2
            row = [size, windows]
            for mode in ('forward', 'training'):
                time = measure.median(measure.interleaved({'x': step(block, y, mode)}, args.repeats)['x'])
                row += [f'{1000 * time:.0f}', f'{1000 * time / windows:.2f}']
            row += [f'{extra(args, mode, size):.0f}' for mode in ('forward', 'training')]
            rows.append(row)
        parts += ['## Growing maps (auto)\n',
                  'Extra memory: peak of the attention operator alone, above its inputs, outputs and gradients.\n',
                  measure.table(['map', 'windows', 'forward ms', 'per window', 'training ms', 'per window',
                                 'forward extra MiB', 'backward extra MiB'], rows)]
    measure.report('One block', parts, args.out)


def available(name: str) -> bool:
    """Whether a package can be imported, and works."""
    try:
        __import__(name)
    except Exception:  # torchvision, which timm needs, may not fit torch
        return False
    return True


def flops(args: argparse.Namespace) -> float:
    """Operations of the matrix products of a forward pass, with windows padded to whole ones."""
    tokens = args.batch * (-(-args.map // args.window) * args.window)**2
    return 2. * tokens * args.dim * (12 * args.dim + 2 * args.window**2)


def build(name: str, args: argparse.Namespace, size: int) -> torch.nn.Module:
    """A block with seeded weights, the same for each contender."""
    shift = args.window // 2
    torch.manual_seed(1)
    window = (args.window,) * 2
    ours = SwinBlock(args.dim, args.heads, window_size=window, pretrained_window=window, shifted=True,
                     config=BlockConfig(attn_backend=name if name in OURS else 'auto'))
    with torch.no_grad():
        for p in ours.parameters():
            p.copy_(torch.randn(p.shape) * .1)
        ours.attn.logit_scale.fill_(2.3)
    if name in OURS:
        return ours
    state = ours.state_dict()
    if name == 'released':
        block = ReleasedBlock(args.dim, args.heads, args.window, shift, (size, size))
        block.load_state_dict(state)
        return block
    if name == 'transformers':
        return Transformers(args, (size, size), state)
    return Timm(args, (size, size), state)


class Transformers(torch.nn.Module):
    """Swinv2Layer on maps of (H, W) tokens."""

    def __init__(self, args, sides, state):
        super().__init__()
        from transformers import Swinv2Config
        from transformers.models.swinv2.modeling_swinv2 import Swinv2Layer
        config = Swinv2Config(window_size=args.window, attention_probs_dropout_prob=0., hidden_dropout_prob=0.,
                              drop_path_rate=0.)
        self.layer = Swinv2Layer(config, args.dim, sides, args.heads, shift_size=args.window // 2)
        names = {'attn.proj.': 'attention.output.dense.', 'norm1.': 'layernorm_before.', 'norm2.': 'layernorm_after.',
                 'mlp.fc1.': 'intermediate.dense.', 'mlp.fc2.': 'output.dense.',
                 'attn.cpb_mlp.': 'attention.self.continuous_position_bias_mlp.',
                 'attn.logit_scale': 'attention.self.logit_scale', 'attn.q_bias': 'attention.self.query.bias',
                 'attn.v_bias': 'attention.self.value.bias'}
        out = {}
        for key, value in state.items():
            for old, new in names.items():
                if key.startswith(old):
                    out[new + key[len(old):]] = value
        for part, rows in zip(('query', 'key', 'value'), state['attn.qkv.weight'].chunk(3)):
            out[f'attention.self.{part}.weight'] = rows
        self.layer.load_state_dict(out)

    def forward(self, x):
        """(B, H, W, C) to the same."""
        b, h, w, c = x.shape
        return self.layer(x.view(b, h * w, c), (h, w))[0].view(b, h, w, c)


class Timm(torch.nn.Module):
    """SwinTransformerV2Block on maps of (H, W) tokens."""

    def __init__(self, args, sides, state):
        super().__init__()
        from timm.models.swin_transformer_v2 import SwinTransformerV2Block
        self.block = SwinTransformerV2Block(args.dim, sides, args.heads, window_size=args.window,
                                            shift_size=args.window // 2)
        self.block.load_state_dict(state)

    def forward(self, x):
        """(B, H, W, C) to the same."""
        return self.block(x)


def step(block: torch.nn.Module, x: torch.Tensor, mode: str):
    """What is timed."""
    if mode == 'forward':
        block.eval()

        def call():
            with torch.no_grad():
                return block(x)
        return call
    block.train()
    x = x.clone().requires_grad_()
    probe = torch.randn(x.shape)
    return lambda: torch.autograd.grad(block(x), [x, *block.parameters()], probe)


def peak(args: argparse.Namespace, name: str, mode: str, size: int) -> float:
    """MiB in a fresh process."""
    options = [name, mode, '--map', size]
    for key in ('window', 'dim', 'heads', 'batch', 'threads'):
        options += [f'--{key}', getattr(args, key)]
    return measure.in_fresh_process(__file__, *options)['peak'] / measure.MIB


def extra(args: argparse.Namespace, mode: str, size: int) -> float:
    """MiB of the attention operator alone, in a fresh process."""
    return peak(args, 'operator', mode, size)


def child(args: argparse.Namespace, name: str, mode: str) -> dict:
    """One step in a fresh process, and its peak."""
    if name == 'operator':
        return dict(peak=operator_peak(args, mode))
    warm = build(name, args, args.window * 2)  # libraries, thread pools
    with torch.no_grad():
        warm(torch.randn(1, args.window * 2, args.window * 2, args.dim))
    del warm
    before = measure.resident('VmRSS')
    measure.forget_peak()
    call = step(build(name, args, args.map), torch.randn(args.batch, args.map, args.map, args.dim), mode)
    kept = call()
    del kept
    return dict(peak=measure.resident('VmHWM') - before)


def operator_peak(args: argparse.Namespace, mode: str) -> int:
    """Peak of attention above what goes in and comes out."""
    n = args.map
    qkv = torch.randn(args.batch, n, n, 3 * args.dim)
    table = torch.randn(args.heads, 2 * args.window - 1, 2 * args.window - 1)
    scale = torch.full((args.heads, 1, 1), 2.3)
    weights = table, scale, None
    options, fewer = (((Axis(tokens, args.window, args.window // 2),) * 2, 0., 64 * 2**20)
                      for tokens in (n, 2 * args.window))
    small = qkv[:, :2 * args.window, :2 * args.window].contiguous()
    results = forward(small, *weights, *fewer)
    backward(results[0], small, *weights, *results, *fewer)  # libraries, thread pools
    out, lse = torch.ones(args.batch, n, n, args.dim), torch.ones(args.batch, n, n, args.heads)
    result = torch.ones(qkv.shape if mode == 'training' else (args.batch, n, n, args.dim))
    del result  # what comes out has its place now
    before = measure.resident('VmRSS')
    measure.forget_peak()
    if mode == 'forward':
        kept = forward(qkv, *weights, *options)
    else:
        kept = backward(out, qkv, *weights, out, lse, *options)
    return max(0, measure.resident('VmHWM') - before - sum(t.nbytes for t in kept))


if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).parent))
    main()
