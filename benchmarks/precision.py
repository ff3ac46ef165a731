#!/usr/bin/env python3
"""Errors of attention in 16 bit against float64, of each backend beside the released code under autocast.

On a CPU, which does not round as a GPU does: kernels are emulated. ``torch`` is what was built around torch's kernel,
which itself is a formula with its roundings (``benchmarks/emulated.py``); ``triton``, where it is installed, is its
interpreter (float16 and small windows only); ``cells`` and ``eager`` are as they are. Not emulated are the three TF32
products of which torch makes one of float32 on a GPU. The released code rounds where autocast makes it: unit queries
and keys, cosines, bias and probabilities are in 16 bit, and so are their gradients; scale and softmax are float32.

One window, heads of 32 channels, random queries, keys, values and gradient of the result in 16 bit; bias 16 sigmoid, in
float32; of small windows several draws. Every result in 16 bit has one rounding at least: the row ``rounded`` is the
exact result after that.
"""
from __future__ import annotations

import argparse
import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

import emulated
import measure
from mmswinv2.core.attention import BACKENDS, cells, torch_fused, window_attention
from mmswinv2.core.position_bias import expand

DTYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16}
SCALES = (10., 30., 100.)
COLUMNS = ('logit max', 'logit rms', 'TV max', 'out', 'dq', 'dk', 'dv', 'dtable', 'dscale')
WORSE = 1.01  # times the released error; less is noise
PAIRS = 2**20  # of tokens, in all draws: the error of the scale, a sum that cancels, differs by 1.1 times between 32
BUDGET = 2**30  # bytes: a window is one block


class Case(NamedTuple):
    """Attention of one window, (1, W, W, 3C)."""

    qkv: Tensor
    table: Tensor
    logit_scale: Tensor
    probe: Tensor


class Answers(NamedTuple):
    """Logits, (nH, N, N), where they can be seen; the result, (N, nH, d), and gradients."""

    logits: Tensor | None
    out: Tensor
    dqkv: Tensor
    dtable: Tensor
    dscale: Tensor


def draw(dtype: torch.dtype, scale: float, *, window: int = 32, heads: int = 4, dim: int = 32, seed: int = 0) -> Case:
    """Random inputs; ``scale`` is just below the clamp where it is 100."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)
    table = 16 * torch.sigmoid(normal(heads, 2 * window - 1, 2 * window - 1))
    return Case(normal(1, window, window, 3 * heads * dim).to(dtype), table,
                torch.full((heads, 1, 1), math.log(scale) - 1e-4),
                normal(1, window, window, heads * dim).to(dtype))


class Spy(TorchFunctionMode):
    """Keeps what softmax is given: logits."""

    def __init__(self) -> None:
        super().__init__()
        self.logits: list[Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.softmax:
            self.logits.append(args[0].detach())
        return func(*args, **kwargs or {})


@contextmanager
def spied(spy: Spy) -> Iterator[None]:
    """Operators keep modes from what is inside; kernels that are seen through say what logits they have."""
    def attend(qkv: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        spy.logits.append(emulated.logits_of(qkv, bias))
        return emulated.fused_forward(qkv, bias)
    formula = cells._logits

    def logits(*args) -> Tensor:
        spy.logits.append(formula(*args))
        return spy.logits[-1]
    with (emulated.on_a_cpu(), mock.patch.object(torch_fused, 'fused_forward', attend),
          mock.patch.dict(cells.FUSED, clear=True), mock.patch.object(cells, '_logits', logits), spy):
        yield


def answer(function: Callable[[Tensor, Tensor, Tensor], Tensor], case: Case) -> Answers:
    """Runs a function of ``qkv``, ``table`` and ``logit_scale`` forward and backward."""
    inputs = [x.detach().requires_grad_() for x in case[:3]]
    spy, heads = Spy(), len(case.table)
    with spied(spy):
        out = function(*inputs)
    logits = torch.cat([x.reshape(-1, *x.shape[-2:]) for x in spy.logits]) if spy.logits else None
    with emulated.on_a_cpu():
        dqkv, *rest = torch.autograd.grad(out, inputs, case.probe.to(out.dtype))
    return Answers(logits, out.detach().view(-1, heads, out.shape[-1] // heads),
                   dqkv.view(-1, 3, heads, out.shape[-1] // heads), *rest)


def by_backend(name: str, case: Case) -> Answers:
    """The answers of a backend."""
    window = tuple(case.qkv.shape[1:3])
    return answer(lambda *inputs: window_attention(*inputs, window=window, shift=(0, 0), backend=name, budget=BUDGET),
                  case)


def by_float64(case: Case) -> Answers:
    """The exact answers."""
    return by_backend('eager', Case(*(x.double() for x in case)))


def released(qkv: Tensor, table: Tensor, logit_scale: Tensor) -> Tensor:
    """The released formula under autocast to the dtype of ``qkv``: a cast that rounds a value rounds its gradient."""
    dtype, heads = qkv.dtype, logit_scale.numel()
    q, k, v = qkv.view(-1, 3, heads, qkv.shape[-1] // 3 // heads).permute(1, 2, 0, 3)  # each (nH, N, d)
    q, k = (F.normalize(x.float(), dim=-1).to(dtype) for x in (q, k))
    logits = _product(q, k.mT) * logit_scale.exp() + expand(table).to(dtype)
    out = _product(logits.softmax(-1).to(dtype), v)
    return out.transpose(0, 1).reshape(*qkv.shape[:-1], -1)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """In 16 bit, summed in float32."""
    return (a.float() @ b.float()).to(a.dtype)


def rounded(exact: Answers, dtype: torch.dtype) -> Answers:
    """Exact answers in the dtypes that they have."""
    return exact._replace(out=exact.out.to(dtype), dqkv=exact.dqkv.to(dtype), dtable=exact.dtable.float(),
                          dscale=exact.dscale.float())


def errors(ours: Answers, exact: Answers) -> dict[str, float | None]:
    """By column. Of gradients and the result relative, in norm; total variation is that of a row of probabilities."""
    def relative(a: Tensor, b: Tensor) -> float:
        return ((a.double() - b).norm() / b.norm()).item()
    found = dict.fromkeys(COLUMNS)
    if ours.logits is not None:
        difference = ours.logits.double() - exact.logits
        p, q = ours.logits.double().softmax(-1), exact.logits.softmax(-1)
        found |= {'logit max': difference.abs().max().item(), 'logit rms': difference.square().mean().sqrt().item(),
                  'TV max': ((p - q).abs().sum(-1).max() / 2).item()}
    for i, name in enumerate(('dq', 'dk', 'dv')):
        found[name] = relative(ours.dqkv[:, i], exact.dqkv[:, i])
    for name in ('out', 'dtable', 'dscale'):
        found[name] = relative(getattr(ours, name), getattr(exact, name))
    return found


def worse(ours: dict[str, float | None], theirs: dict[str, float | None]) -> dict[str, float]:
    """Columns in which ours are worse, and how many times."""
    return {name: ours[name] / theirs[name] for name in COLUMNS
            if ours[name] is not None and ours[name] > WORSE * theirs[name]}


def backends(dtype: torch.dtype, window: int) -> list[str]:
    """Those that can be emulated here; the interpreter of Triton has no bfloat16 and is slow."""
    names = [name for name in BACKENDS if name != 'triton' and (name != 'torch' or torch_fused.HAS_OPERATORS)]
    if 'triton' in BACKENDS and dtype == torch.float16 and window <= 8:
        if importlib.import_module('mmswinv2.core.attention.triton.launch').INTERPRETED:
            names.append('triton')
    return names


def rows(dtype: torch.dtype, scale: float, window: int, heads: int, dim: int,
         draws: int | None = None) -> dict[str, dict[str, float | None]]:
    """Errors by contender, the released code first: the largest of some draws, or the root of the mean square."""
    found: dict[str, list[dict]] = {}
    for seed in range(draws or max(2, PAIRS // window**4)):
        case = draw(dtype, scale, window=window, heads=heads, dim=dim, seed=seed)
        exact = by_float64(case)
        answers = {'released': answer(released, case)}
        answers |= {name: by_backend(name, case) for name in backends(dtype, window)}
        for name, answered in {**answers, 'rounded': rounded(exact, dtype)}.items():
            found.setdefault(name, []).append(errors(answered, exact))
    return {name: {column: _together(column, [e[column] for e in several]) for column in COLUMNS}
            for name, several in found.items()}


def _together(column: str, values: list[float | None]) -> float | None:
    if None in values:
        return None
    return max(values) if column.endswith('max') else math.sqrt(sum(v * v for v in values) / len(values))


def main() -> None:
    """Computes and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--windows', type=int, nargs='+', default=[32, 8], help='tokens along each side')
    parser.add_argument('--heads', type=int, default=4)
    parser.add_argument('--dim', type=int, default=32, help='channels of a head')
    parser.add_argument('--scales', type=float, nargs='+', default=[*SCALES])
    parser.add_argument('--dtypes', nargs='+', choices=DTYPES, default=[*DTYPES])
    parser.add_argument('--out', help='a Markdown file')
    args = parser.parse_args()
    parts = [__doc__.split('\n\n', 1)[1], 'The column *worse* names those in which a backend is worse than the '
             'released code under the same autocast, and how many times.\n']
    for window in args.windows:
        for dtype in args.dtypes:
            for scale in args.scales:
                found = rows(DTYPES[dtype], scale, window, args.heads, args.dim)
                lines = []
                for name, errors_ in found.items():
                    more = worse(errors_, found['released'])
                    said = ', '.join(f'{column} {times:.2f}' for column, times in more.items()) or 'none'
                    lines.append([name, *('' if e is None else f'{e:.1e}' for e in errors_.values()),
                                  '' if name in ('released', 'rounded') else said])
                parts += [f'## {dtype}, scale {scale:g}, {window**2} tokens\n',
                          measure.table(['', *COLUMNS, 'worse'], lines)]
    measure.report('Errors of attention in 16 bit', parts, args.out)


if __name__ == '__main__':
    main()
