#!/usr/bin/env python3
"""Compiles the Triton kernels of window attention for GPUs that need not be there: registers, spills, shared memory.

Each kernel is compiled for each architecture, window and dtype as the backend starts it, for whole windows and for
cells at the border. ``ptxas`` comes with Triton. Nothing is run.
"""
from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import measure
from mmswinv2.core.attention.triton import launch
from mmswinv2.core.grid import Axis

ARCHS = (80, 89, 90)
WINDOWS = (8, 16, 32)
DTYPES = dict(bf16=torch.bfloat16, fp16=torch.float16, fp32=torch.float32)
SHARED = 99 * 1024  # bytes that a program may have on each of them
COLUMNS = ('kernel', 'arch', 'registers', 'spills', 'shared', 'atomics')


def main() -> None:
    """Compiles and reports; exits with 1 where a kernel spills, needs too much shared memory, or has atomics."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', type=int, nargs='+', default=ARCHS)
    parser.add_argument('--window', type=int, nargs='+', default=WINDOWS)
    parser.add_argument('--dtype', nargs='+', choices=DTYPES, default=['bf16', 'fp32'])
    parser.add_argument('--dim', type=int, default=32, help='channels of a head')
    parser.add_argument('--kernel', nargs='+', help='names; all of them by default')
    parser.add_argument('--json', action='store_true', help='one line per kernel')
    args = parser.parse_args()
    if launch.INTERPRETED:
        parser.error('TRITON_INTERPRET must not be set: interpreted kernels are not compiled')
    if launch.MISSING:
        parser.error(launch.MISSING)
    rows, seen = [], set()
    for dtype in args.dtype:
        for window in args.window:
            for kernel, tensors, constants in started(window, args.dim, DTYPES[dtype]):
                name = ' '.join([kernel, dtype, *(
                    [f'window {window}', 'whole' if constants['WHOLE'] else 'border'] if 'WHOLE' in constants else [])])
                if name in seen or args.kernel and kernel not in args.kernel:
                    continue
                seen.add(name)
                for arch in args.arch:
                    rows.append(dict(kernel=name, arch=f'sm{arch}', **compiled(kernel, tensors, constants, arch)))
                    if args.json:
                        print(json.dumps(rows[-1]), flush=True)
    if not args.json:
        measure.report('Triton kernels', [measure.table(COLUMNS, [[row[c] for c in COLUMNS] for row in rows])], None)
    sys.exit(any(row['spills'] or row['atomics'] or row['shared'] > SHARED for row in rows))


def started(window: int, dim: int, dtype: torch.dtype) -> list[tuple[str, dict, dict]]:
    """What a shifted map on the meta device starts, forward and backward: (kernel, tensors, constants)."""
    calls, start = [], launch.launch
    launch.launch = lambda kernel, grid, tensors, constants, **kwargs: calls.append(
        (kernel, tensors, constants))
    try:
        heads = 3
        qkv = torch.empty(1, 3 * window, 3 * window, 3 * heads * dim, dtype=dtype, device='meta')
        weights = (torch.empty(heads, 2 * window - 1, 2 * window - 1, device='meta'),
                   torch.empty(heads, 1, 1, device='meta'), None)
        options = (Axis(3 * window, window, window // 2),) * 2, 0., 2**29
        results = launch.forward(qkv, *weights, *options)
        launch.backward(results[0], qkv, *weights, *results, *options)
    finally:
        launch.launch = start
    return calls


def compiled(kernel: str, tensors: dict, constants: dict, arch: int) -> dict:
    """Registers of a thread, bytes spilled, bytes of shared memory, number of atomics."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mmswinv2.core.attention.triton import kernels
    function = getattr(kernels, kernel)
    options = {name: constants[name] for name in ('num_warps', 'num_stages') if name in constants}
    pointers = {torch.float32: '*fp32', torch.float16: '*fp16', torch.bfloat16: '*bf16'}
    fixed = {p.name for p in function.params if p.is_constexpr}
    signature = {name: 'constexpr' if name in fixed else pointers[tensors[name].dtype] if name in tensors else 'i32'
                 for name in function.arg_names}
    at = {name: (i,) for i, name in enumerate(function.arg_names)}
    source = ASTSource(fn=function, signature=signature, constexprs={at[name]: constants[name] for name in fixed},
                       attrs={at[name]: [['tt.divisibility', 16]] for name in tensors})
    built = triton.compile(source, target=GPUTarget('cuda', arch, 32), options=options)
    ptx = built.asm['ptx']
    registers, spills = assembled(ptx, Path(triton.__file__).parent)
    return dict(registers=registers, spills=spills, shared=built.metadata.shared,
                atomics=len(re.findall(r'^\s*(?:@\S+\s+)?(?:red|atom)\.', ptx, re.MULTILINE)))


def assembled(ptx: str, triton: Path) -> tuple[int, int]:
    """Registers of a thread and bytes spilled, as ptxas says."""
    ptxas = triton / 'backends' / 'nvidia' / 'bin' / 'ptxas'
    target = re.search(r'\.target (sm_\w+)', ptx).group(1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'kernel.ptx'
        file.write_text(ptx)
        said = subprocess.run([ptxas, '-v', f'--gpu-name={target}', file, '-o', os.devnull], capture_output=True,
                              text=True, check=True).stderr
    spilled = re.search(r'(\d+) bytes spill stores, (\d+) bytes spill loads', said)
    return int(re.search(r'Used (\d+) registers', said).group(1)), sum(map(int, spilled.groups()))


if __name__ == '__main__':
    main()
