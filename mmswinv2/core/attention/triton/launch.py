"""Window attention by Triton kernels: which problems they support, and their launches, forward and backward.

Every kernel is launched once for the cells that are whole windows and once for those at the border of the map, or once
for all cells where a small map cuts windows to sizes that are not worth a compilation. Beside its results, a pass needs
the inverse lengths of queries and keys. The backward pass also needs a number per query and head, and the gradient of
the bias of as many heads at a time as fit a quarter of the budget. Each launch is reported to observers, which count
costs.

Legend: B images, *map tokens along each axis, C channels, nH heads, d = C/nH, N tokens of a window.
"""
from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.util import find_spec
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from ...grid import Axis, Grid
from ...position_bias import fold
from ...torch_compat import without_autocast
from ..eager import MAX_LOGIT_SCALE
from ..operator import empty_results, kernel_backend
from ..problem import Problem

OLDEST = (3, 0)  # Triton without ``input_precision`` computes float32 products in TF32
INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'  # Triton reads it when kernels are defined
# called at each launch with (kernel, tensors, flops, pairs, dtype, writes), as launch() is given them
OBSERVERS: list[Callable[[str, dict[str, Tensor], int, int, torch.dtype, tuple[str, ...]], None]] = []
MIN_DIM, MAX_DIM = 16, 64  # channels of a head
LARGEST_WINDOW = 2**15  # tokens: pairs of them are counted in int32
LARGEST_CELL = 2**31  # elements of qkv from the first to the last token of a window: offsets are int32
COMPILED = 8  # tokens: kernels are compiled for windows that a map cuts to a multiple of it
LENGTH_ROWS = 64  # of a program that computes lengths
BIAS_PROGRAMS = 2048  # at least, of the gradient of the bias: the same on every device, for the same bits
SMALLEST_TILE = 16  # that tensor cores take


def _missing() -> str | None:
    if find_spec('triton') is None:
        return 'Triton is not installed (CUDA builds of torch for Linux bring it)'
    for name in ('triton', 'pytorch-triton', 'triton-windows'):  # its distributions
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if tuple(int(part) for part in version.split('+')[0].split('.')[:2]) < OLDEST:
            return f'Triton must be {".".join(map(str, OLDEST))} or newer, got {version}'
    return None


MISSING = _missing()  # why kernels cannot be started here, or None; found without importing Triton


class Tile(NamedTuple):
    """The tile of a kernel's program, and how it is processed: queries, keys, warps, stages of its pipeline."""

    queries: int
    keys: int
    warps: int = 4
    stages: int = 2


# by kernel and bytes of an element; each was compiled without spills (benchmarks/triton_compile.py). Without a pipeline
# backward_q leaves registers for a third program on a multiprocessor (Triton 3.8, sm90)
TILES = {
    ('forward', 2): Tile(64, 64), ('forward', 4): Tile(32, 32),
    ('backward_q', 2): Tile(64, 32, stages=1), ('backward_q', 4): Tile(32, 16),
    ('backward_kv', 2): Tile(32, 64), ('backward_kv', 4): Tile(16, 32),
    ('backward_bias', 2): Tile(64, 64), ('backward_bias', 4): Tile(32, 16),
}
BORDER_TILES = {('backward_bias', 2): Tile(64, 32)}  # where windows are not compiled for, if another


class Cells(NamedTuple):
    """The cells of a batch in one launch: whether they are whole windows, their number, tokens of the largest, and
    token pairs of all."""

    whole: bool
    count: int  # type: ignore[assignment]  # a tuple has a method of that name
    tokens: int
    pairs: int


def launch(kernel: str, grid: tuple[int, ...], tensors: dict[str, Tensor], constants: dict, *, flops: int, pairs: int,
           dtype: torch.dtype, writes: tuple[str, ...]) -> None:
    """Launches a kernel; on the meta device, where costs are counted, it launches nothing and needs no Triton.

    Args:
        kernel: Its name in :mod:`mmswinv2.core.attention.triton.kernels`.
        grid: Programs.
        tensors: Contiguous ones by the names of the kernel's arguments.
        constants: The other arguments, and ``num_warps`` and ``num_stages``.
        flops: FLOPs of its matrix products.
        pairs: Pairs of a query and a key that it processes, in all heads.
        dtype: Of the products.
        writes: Names of tensors that it writes; the others it reads.
    """
    for observe in OBSERVERS:
        observe(kernel, tensors, flops, pairs, dtype, writes)
    device = next(iter(tensors.values())).device
    if device.type == 'meta':
        return
    from . import kernels
    with torch.cuda.device(device if device.type == 'cuda' else -1):  # Triton starts kernels on the current device
        getattr(kernels, kernel)[grid](**tensors, **constants)


def refuses(problem: Problem) -> str | None:
    """Why the kernels do not support a problem, or None.

    The meta device, where costs are counted, needs no Triton.
    """
    qkv, grid = problem.qkv, problem.grid
    device, dim = qkv.device.type, qkv.shape[-1] // 3 // problem.logit_scale.numel()
    if device != 'meta':
        if MISSING is not None:
            return MISSING
        if INTERPRETED:
            if device != 'cpu':
                return f'kernels are interpreted (TRITON_INTERPRET=1), on CPU tensors only, got a {device} tensor'
        elif torch.version.hip is not None:
            return 'kernels were never compiled for ROCm'
        elif device != 'cuda':
            return f'kernels run on CUDA devices, or interpreted (TRITON_INTERPRET=1) on a CPU, got a {device} tensor'
        elif torch.cuda.is_available() and torch.cuda.get_device_properties(qkv.device).major < 8:
            return 'the GPU must have compute capability 8.0 or more'
    if qkv.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f'it computes in float16, bfloat16 or float32, got {qkv.dtype}'
    if problem.dropout:
        return f'it has no dropout, got dropout={problem.dropout}'
    if dim & (dim - 1) or not MIN_DIM <= dim <= MAX_DIM:
        return f'heads must have {MIN_DIM}, 32 or {MAX_DIM} channels, got {dim}'
    if prod([axis.window for axis in grid]) > LARGEST_WINDOW or _reach(qkv, grid) >= LARGEST_CELL:
        return (f'windows must have at most {LARGEST_WINDOW} tokens, less than {LARGEST_CELL} elements apart, got '
                f'{tuple(axis.window for axis in grid)}')
    return None


def forward(qkv: Tensor, table: Tensor, logit_scale: Tensor, seed: Tensor | None, grid: Grid, dropout: float,
            budget: int) -> tuple[Tensor, Tensor]:
    """As :func:`mmswinv2.core.attention.cells.forward`, without dropout.

    Products are in the dtype of ``qkv`` and summed in float32; everything else is in float32.
    """
    out, lse = empty_results(qkv, logit_scale)
    call = _Call(qkv, table, logit_scale, grid)
    tensors = dict(call.tensors, inverse=call.inverse_lengths(), out=out, lse=lse)
    for cells in call.cells:
        call.launch('forward', cells, tensors, products=2, writes=('out', 'lse'))
    return out, lse


def backward(grad_out: Tensor, qkv: Tensor, table: Tensor, logit_scale: Tensor, seed: Tensor | None, out: Tensor,
             lse: Tensor, grid: Grid, dropout: float, budget: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`forward` with respect to ``qkv``, ``table`` and ``logit_scale``."""
    call = _Call(qkv, table, logit_scale, grid)
    tensors = dict(call.tensors, inverse=call.inverse_lengths(), grad_out=grad_out.contiguous(), lse=lse,
                   delta=_float32(qkv, 2 if call.exact else 1, call.num_heads, call.tokens))
    grad_qkv = torch.empty_like(qkv)
    with without_autocast(qkv.device):
        grad_scale = call.grad_queries(dict(tensors, out=out, grad_qkv=grad_qkv))
        for cells in call.cells:
            call.launch('backward_kv', cells, dict(tensors, grad_qkv=grad_qkv), products=4, writes=('grad_qkv',))
        grad_table = call.grad_table(tensors, budget)
        grad_scale = grad_scale.view_as(logit_scale).masked_fill(logit_scale > MAX_LOGIT_SCALE, 0)
    return grad_qkv, grad_table.to(table.dtype), grad_scale.to(logit_scale.dtype)


class _Call:
    """The arguments that all kernels share for a map."""

    def __init__(self, qkv: Tensor, table: Tensor, logit_scale: Tensor, grid: Grid) -> None:
        batch, *lengths, channels = qkv.shape
        self.qkv, self.window = qkv, tuple(axis.window for axis in grid)
        grid = (Axis(1, 1),) * (3 - len(grid)) + grid  # kernels have three axes
        self.tokens, self.num_heads = batch * prod(lengths), logit_scale.numel()
        self.dim = channels // 3 // self.num_heads
        self.positions = prod(self.window)  # N
        self.cells = list(_cells(batch, grid))
        self.exact = qkv.dtype == torch.float32
        table = table.to(torch.float32)
        if not self.exact:
            table = table * math.log2(math.e)  # logits are to the base 2
        self.tensors = dict(qkv=qkv, table=table.contiguous(), logit_scale=logit_scale.contiguous())
        self.constants = dict(TOKENS=self.tokens, NH=self.num_heads, D=self.dim)
        self.geometry = {f'{name}{i}': value for i, axis in enumerate(grid)
                         for name, value in (('L', axis.length), ('S', axis.shift), ('R', axis.window))}
        self.geometry |= dict(EVERY=int(_are_cut(grid)), FLAT=grid[0].length == 1)

    def inverse_lengths(self) -> Tensor:
        """Inverse lengths of queries and keys, (2, nH, tokens) in float32."""
        inverse = _float32(self.qkv, 2, self.num_heads, self.tokens)
        if self.tokens:
            programs = -(-self.tokens // LENGTH_ROWS) * 2 * self.num_heads
            launch('lengths', (programs,), dict(qkv=self.qkv, inverse=inverse),
                   dict(self.constants, BM=LENGTH_ROWS, num_warps=4), flops=0, pairs=0, dtype=torch.float32,
                   writes=('inverse',))
        return inverse

    def tile(self, kernel: str, cells: Cells) -> Tile:
        """The tile of a kernel, no larger than a window needs."""
        key = kernel, self.qkv.element_size()
        tile = TILES[key] if cells.whole else BORDER_TILES.get(key, TILES[key])
        largest = max(SMALLEST_TILE, 1 << (self.positions - 1).bit_length())
        return tile._replace(queries=min(tile.queries, largest), keys=min(tile.keys, largest))

    def launch(self, kernel: str, cells: Cells, tensors: dict[str, Tensor], *, products: int, writes: tuple[str, ...],
               programs: int | None = None, heads: int | None = None, **constants: int) -> None:
        """Starts a kernel for some cells: a program for each tile of queries (keys: ``backward_kv``) and head, or
        ``programs``."""
        tile, heads = self.tile(kernel, cells), self.num_heads if heads is None else heads
        if programs is None:
            constants['TILES'] = self.tiles(kernel, cells)
            programs = constants['TILES'] * heads * cells.count
        window = {f'W{i}': self.geometry[f'R{i}'] if cells.whole else 0 for i in range(3)}
        pairs = cells.pairs * heads
        launch(kernel, (programs,), tensors,
               dict(self.constants, **self.geometry, **window, **constants, BM=tile.queries, BN=tile.keys,
                    WHOLE=cells.whole, EXACT=self.exact, num_warps=tile.warps, num_stages=tile.stages),
               flops=2 * products * self.dim * pairs, pairs=pairs, dtype=self.qkv.dtype, writes=writes)

    def tiles(self, kernel: str, cells: Cells) -> int:
        """Programs for each head of the largest of some cells."""
        tile = self.tile(kernel, cells)
        return -(-cells.tokens // (tile.keys if kernel == 'backward_kv' else tile.queries))

    def grad_queries(self, tensors: dict[str, Tensor]) -> Tensor:
        """Starts the kernel that also fills in ``delta``; returns the gradient of ``logit_scale``, (nH,),
        as if it were not clamped."""
        counts = [self.tiles('backward_q', cells) * cells.count for cells in self.cells]
        parts = _float32(self.qkv, self.num_heads, sum(counts))
        for i, cells in enumerate(self.cells):
            self.launch('backward_q', cells, dict(tensors, grad_scale=parts), products=4,
                        writes=('grad_qkv', 'delta', 'grad_scale'), FIRST_PROGRAM=sum(counts[:i]), PROGRAMS=sum(counts))
        return parts.sum(1)

    def grad_table(self, tensors: dict[str, Tensor], budget: int) -> Tensor:
        """The gradient of the table, (nH, 2W-1, ...) in float32, of as many heads at a time as fit the budget."""
        n = self.positions
        most = max(1, budget // 4 // (4 * n * n))  # parts (N, N) at a time
        heads = min(self.num_heads, max(1, most // 2))
        sizes = [self.tile('backward_bias', cells) for cells in self.cells]
        tiles = [-(-n // tile.queries) * -(-n // tile.keys) for tile in sizes]
        splits = [max(1, min(cells.count, -(-BIAS_PROGRAMS // (count * self.num_heads)), most // heads // 2))
                  for cells, count in zip(self.cells, tiles)]
        grads = []
        for first in range(0, self.num_heads, heads):
            together = min(heads, self.num_heads - first)
            parts = _float32(self.qkv, sum(splits), together, n, n)
            for i, cells in enumerate(self.cells):
                self.launch('backward_bias', cells, dict(tensors, parts=parts), products=2, writes=('parts',),
                            programs=tiles[i] * together * splits[i], heads=together, CELLS=cells.count,
                            FIRST_HEAD=first, HEADS=together, SPLITS=splits[i], FIRST_SPLIT=sum(splits[:i]))
            grads.append(fold(parts.sum(0), self.window))
        return torch.cat(grads)


def _cells(batch: int, grid: Grid) -> Iterator[Cells]:
    """Cells that are whole windows, and the others; neither where there are none. Cut windows are among the others."""
    whole = 0 if _are_cut(grid) else prod((axis.length - axis.shift) // axis.window for axis in grid)
    n = prod(axis.window for axis in grid)
    if batch and whole:
        yield Cells(True, batch * whole, n, batch * whole * n * n)
    rest = prod(sum(run.count for run in axis.runs) for axis in grid) - whole
    if batch and rest:
        pairs = prod(axis.pairs for axis in grid) - whole * n * n
        yield Cells(False, batch * rest, n if _are_cut(grid) else _largest_at_border(grid), batch * pairs)


def _are_cut(grid: Grid) -> bool:
    """Whether a small map cuts windows to sizes that other maps seldom have: no kernel is compiled for them."""
    return any(axis.window == axis.length > 1 and axis.window % COMPILED for axis in grid)


def _largest_at_border(grid: Grid) -> int:
    """Tokens of the largest cell that is no whole window."""
    largest = 0
    sizes = [max(run.size for run in axis.runs) for axis in grid]
    for i, axis in enumerate(grid):
        smaller = [run.size for run in axis.runs if run.size < axis.window]
        if smaller:
            largest = max(largest, max(smaller) * prod(sizes[:i] + sizes[i + 1:]))
    return largest


def _reach(qkv: Tensor, grid: Grid) -> int:
    """Elements of qkv from the first to the last token of a window."""
    tokens, stride = 1, 1
    for axis in reversed(grid):
        tokens += (axis.window - 1) * stride
        stride *= axis.length
    return tokens * qkv.shape[-1]


def _float32(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


BACKEND = kernel_backend('triton', forward, backward, refuses)
