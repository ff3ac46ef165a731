#!/usr/bin/env python3
"""What a block costs on a GPU, counted on the meta device: launches, bytes, operations per dtype, per backend.

Nothing is measured. Each operation of torch is one launch; it moves its inputs and outputs once, expanded axes counted
once, views nothing. Fused attention is one launch, and so is a Triton kernel. The modelled time of a kernel is the most
of its operations over a rate, its bytes over a bandwidth, and 2 us; that of a block is their sum, at least 5 us of the
host per launch. Rates are what such kernels are known to reach, not peaks; fused attention with 32 channels
a head is limited by its softmax, so by pairs of tokens per second (facebookresearch/xformers#387, #587; other GPUs by
their multiprocessors and clocks). Modelled times are lower bounds: published ones were 1.8 times as long at window 24
and up to 4 times at window 8. Ratios of two are better than either.

All under autocast to bfloat16, as CUDA has it. The meta device has no autocast; what a block needs of it is imitated
(``tools/planner/meta.py``).
"""
from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

import measure
from mmswinv2.core import BlockConfig, SwinBlock
from mmswinv2.core.attention.triton.launch import OBSERVERS
from mmswinv2.core.torch_compat import meta_stands_for
from planner.meta import KERNELS, META, autocast
from released import ReleasedBlock

HALF, SINGLE = (torch.bfloat16, torch.float16), torch.float32


class Gpu(NamedTuple):
    """Rates per second: bytes, operations of products in 16 bit and in float32, pairs of fused attention in both."""

    bandwidth: float
    half: float
    single: float
    half_pairs: float
    single_pairs: float


GPUS = {'H100': Gpu(2.85e12, 600e12, 45e12, .55e12, .175e12),
        'A100': Gpu(1.73e12, 230e12, 15e12, .36e12, .115e12),
        '4090': Gpu(0.92e12, 140e12, 55e12, .60e12, .080e12)}
LAUNCH, SHORTEST = 5e-6, 2e-6  # seconds of the host per kernel, and of a kernel


class Case(NamedTuple):
    """A shifted block: images, tokens along each axis, C, nH, window."""

    batch: int
    height: int
    width: int
    dim: int
    heads: int
    window: int


CASES = {'g-stage1': Case(1, 384, 384, 512, 16, 32), 'l-stage1': Case(1, 384, 384, 192, 6, 32),
         't-256-w8-b1': Case(1, 64, 64, 96, 3, 8), 't-256-w8-b64': Case(64, 64, 64, 96, 3, 8),
         't-800x1333-w16-b2': Case(2, 200, 334, 96, 3, 16)}
NAMES = ('auto', 'torch', 'triton', 'eager', 'released')
MODES = ('forward', 'training')

NOTHING = {'empty', 'empty_like', 'new_empty', 'empty_strided', 'new_empty_strided', 'empty_permuted', '_unsafe_view',
           'detach', 'alias', 'lift_fresh', 'resize_', 'set_'}
WRITE_ONLY = {'copy_', 'zero_', 'fill_', 'bernoulli_', 'random_', 'uniform_'}
PADS = {'pad', 'constant_pad_nd'}  # which fill first, another launch
ATTENTION = {'_scaled_dot_product_efficient_attention': 1., '_efficient_attention_forward': 1.,
             '_scaled_dot_product_efficient_attention_backward': 2.5, '_efficient_attention_backward': 2.5}
# by products; in aten's order of arguments, (queries, keys) and whether heads stand before tokens
ARGUMENTS = {'_scaled_dot_product_efficient_attention': (0, 1, True), '_efficient_attention_forward': (0, 1, False),
             '_scaled_dot_product_efficient_attention_backward': (1, 2, True),
             '_efficient_attention_backward': (1, 2, False)}


class Launch(NamedTuple):
    """A kernel: its name, operations of matrix products in a dtype, bytes moved, pairs of tokens if it is attention."""

    name: str
    flops: int
    dtype: torch.dtype
    moved: int
    pairs: float = 0.

    def seconds(self, gpu: Gpu) -> float:
        """As modelled."""
        rate, pairs = (gpu.half, gpu.half_pairs) if self.dtype in HALF else (gpu.single, gpu.single_pairs)
        return max(self.pairs / pairs if self.pairs else self.flops / rate, self.moved / gpu.bandwidth, SHORTEST)


@dataclass
class Cost:
    """What was launched."""

    launches: list[Launch] = field(default_factory=list)

    @property
    def gb(self) -> float:
        """Gigabytes (1e9) moved."""
        return sum(launch.moved for launch in self.launches) / 1e9

    def gflop(self, dtype: torch.dtype) -> float:
        """Operations of matrix products in a dtype, 1e9."""
        return sum(launch.flops for launch in self.launches if launch.dtype == dtype) / 1e9

    def modelled_ms(self, gpu: Gpu) -> float:
        """Milliseconds, by the model: the longer of the GPU's and the host's."""
        return 1e3 * max(sum(launch.seconds(gpu) for launch in self.launches), LAUNCH * len(self.launches))

    def by_name(self) -> Counter:
        """Launches of each kind."""
        return Counter(launch.name for launch in self.launches)


def unique_bytes(x: Tensor) -> int:
    """Bytes behind a tensor, expanded axes counted once."""
    return x.element_size() * torch.Size(n for n, stride in zip(x.shape, x.stride()) if stride).numel()


class Counting(TorchDispatchMode):
    """Counts what runs inside, on the meta device.

    Args:
        cost: To which it is added.
    """

    def __init__(self, cost: Cost) -> None:
        super().__init__()
        self.cost = cost

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in KERNELS:  # an operator of ours: what it is made of
            with self:
                return KERNELS[func](*args, **kwargs)
        name = func._schema.name.split('::')[1]
        out = META.get(func, func)(*args, **kwargs)
        given = _tensors(args, kwargs)
        written = _tensors([a for a, argument in zip(args, func._schema.arguments) if _is_written(argument)],
                           [kwargs[a.name] for a in func._schema.arguments if a.name in kwargs and _is_written(a)])
        made = _tensors(out)
        views = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if name in NOTHING or (views and not written) or not made:
            return out
        unread = written if name in WRITE_ONLY or func._overloadname.endswith('out') else []
        read = [t for t in given if not any(t is u for u in unread)]
        moved = sum(map(unique_bytes, read + made))
        pairs = 0.
        if name in ATTENTION:
            i, j, heads_first = ARGUMENTS[name]
            q, k = args[i], args[j]
            pairs = ATTENTION[name] * q.shape[:-1].numel() * k.shape[-2 if heads_first else -3]
        packet = getattr(torch.ops.aten, name.removesuffix('_') if written else name, None)  # in place, too
        count = flop_registry.get(packet)
        flops = count(*args, **{k: v for k, v in kwargs.items() if k != 'out'}, out_val=out) if count else 0
        if func in META:  # its formula has the same fault
            flops = int(4 * pairs * q.shape[-1])
        self.cost.launches.append(Launch(name, flops, (read or made)[0].dtype, moved, pairs))
        if name in PADS:
            self.cost.launches.append(Launch('fill_', 0, made[0].dtype, 0))
        return out

    def triton(self, name: str, tensors: dict[str, Tensor], flops: int, pairs: int, dtype: torch.dtype,
               writes: tuple[str, ...]) -> None:
        """Counts a Triton kernel, as its observer."""
        self.cost.launches.append(Launch(name, flops, dtype, sum(map(unique_bytes, tensors.values())), pairs))


def _is_written(argument) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _tensors(*trees) -> list[Tensor]:
    return [t for t in tree_leaves(trees) if isinstance(t, Tensor)]


@contextmanager
def observed(counting: Counting) -> Iterator[None]:
    """Triton kernels are counted."""
    OBSERVERS.append(counting.triton)
    try:
        yield
    finally:
        OBSERVERS.remove(counting.triton)


def build(case: Case, backend: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A block on the meta device, and the shape of its map: the released one takes whole windows only."""
    b, h, w, dim, heads, n = case
    with torch.device('meta'):
        if backend == 'released':
            h, w = -(-h // n) * n, -(-w // n) * n
            return ReleasedBlock(dim, heads, n, n // 2, (h, w)), (b, h, w, dim)
        return SwinBlock(dim, heads, window_size=(n, n), pretrained_window=(n, n), shifted=True,
                         config=BlockConfig(attn_backend=backend)), (b, h, w, dim)


def count(case: Case, backend: str, mode: str) -> Cost:
    """What a block launches on a CUDA device under autocast to bfloat16, when it has seen a map of that size before.

    Args:
        case: The block and its map.
        backend: A name of ``NAMES``.
        mode: ``'forward'``, without a gradient, or ``'training'``, forward and backward.
    """
    block, shape = build(case, backend)
    training = mode == 'training'
    block.train(training)
    x = torch.empty(shape, device='meta', requires_grad=training)
    cost = Cost()
    with meta_stands_for('cuda'), Counting(cost) as counting, observed(counting):
        with torch.no_grad(), autocast():
            block(x)
        cost.launches.clear()
        with torch.set_grad_enabled(training), autocast():
            y = block(x)
        if training:
            torch.autograd.grad(y, [x, *block.parameters()], torch.empty_like(y))
    return cost


def rows(cases: list[str], backends: list[str], modes: list[str]) -> Iterator[dict]:
    """A row for each case, mode and backend."""
    for name in cases:
        for mode in modes:
            for backend in backends:
                cost = count(CASES[name], backend, mode)
                yield dict(case=name, mode=mode, backend=backend, launches=len(cost.launches), gb=round(cost.gb, 4),
                           float32_product_gflop=round(cost.gflop(SINGLE), 4),
                           model_ms={gpu: round(cost.modelled_ms(rates), 3) for gpu, rates in GPUS.items()})


def main() -> None:
    """Counts and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cases', nargs='+', choices=CASES, default=[*CASES])
    parser.add_argument('--backends', nargs='+', choices=NAMES, default=[*NAMES])
    parser.add_argument('--modes', nargs='+', choices=MODES, default=[*MODES])
    parser.add_argument('--json', action='store_true', help='rows, one a line, instead of a table')
    parser.add_argument('--kernels', action='store_true', help='launches of each kind, to standard output')
    parser.add_argument('--out', help='a Markdown file')
    args = parser.parse_args()
    if args.kernels:
        for name in args.cases:
            for mode in args.modes:
                for backend in args.backends:
                    print(name, mode, backend, dict(count(CASES[name], backend, mode).by_name().most_common()))
        return
    found = rows(args.cases, args.backends, args.modes)
    if args.json:
        for row in found:
            print(json.dumps(row))
        return
    head = ['case', 'mode', 'backend', 'launches', 'GB moved', 'float32 products, GFLOP',
            *(f'{gpu}, model ms' for gpu in GPUS)]
    lines = [[row['case'], row['mode'], row['backend'], row['launches'], f'{row["gb"]:.2f}',
              f'{row["float32_product_gflop"]:.2f}', *(f'{ms:.2f}' for ms in row['model_ms'].values())]
             for row in found]
    measure.report('What a shifted block costs on a GPU, counted', [
        'Nothing was measured: launches, bytes and operations are counted on the meta device, under autocast to '
        'bfloat16; times are a model (lower bounds).\n', measure.table(head, lines)], args.out)


if __name__ == '__main__':
    main()
