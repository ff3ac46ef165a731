#!/usr/bin/env python3
"""A GPU in one call: are the backends right there, how fast and how small are they, beside whom. Under eight minutes.

Sections, each with its share of the time; what does not fit is a row that says ``skipped``:

``right``: each backend and dtype at real sizes, in the result and every gradient, against ``cells`` in float64 on two
of the heads, which do not know of each other; a second run, after freed memory was filled with NaN, has the same bits.
``block`` and ``backbone``: forward passes and training steps under autocast to bfloat16, medians by CUDA's events, peak
memory, and the rate as a fraction of a large product's measured in the same process. Operations are those of the
released formula on whole windows. The released formula and timm get the map padded to whole windows.
``step``: SwinV2-G at 1536 px with AdamW, checkpointed.

Rows are written as they are made (JSON lines), the report at the end. Contenders run in another process, which is begun
again when one of them ends it, spoils the device or takes too long; a failure is a row. timm and transformers take part
where they are installed. No network is used.
"""
from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import math
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import attention
import backbone
import measure
from mmswinv2.core import SwinTransformerV2, get_arch
from mmswinv2.core.attention import BACKENDS, Problem, window_attention
from mmswinv2.core.config import PATCH_SIZE
from mmswinv2.core.grid import Axis
from released import ReleasedBlock

SECONDS = 450.
SHARES = {'right': .25, 'block': .6, 'backbone': .85, 'step': 1.}  # of the time, by the end of each section
LIMIT = 75.  # seconds of one row
LATE = .03  # of the time, that a row may take beyond the end of its section
MODES = ('forward', 'training')
PEERS = ('released', 'timm', 'transformers')
COMPILED = {'block': 2, 'backbone': 1}  # cases in which the released formula is compiled, too
EAGER_BYTES = 4 * 2**30  # of attention maps in float32, at most
CHECKPOINTED = 1024  # pixels from which training is checkpointed
ANSWERS = ('out', 'dq', 'dk', 'dv', 'dtable', 'dscale')
# relative errors at scales from 10 to 100, about twice those of benchmarks/results/precision_cpu.md; float32 products
# are three of TF32
BOUNDS = {torch.float32: 1e-4, torch.float16: .01, torch.bfloat16: .015}
SCALE_BOUND = 10  # times that for the gradient of the scale, in which most cancels
DTYPES = {'float32': torch.float32, 'float16': torch.float16, 'bfloat16': torch.bfloat16}


class Case(NamedTuple):
    """A map of stage 1, or an image.

    Args:
        arch: A name of an architecture, or sizes.
        height: Pixels.
        width: Pixels.
        window: Tokens.
        batch: Images.
    """

    arch: str
    height: int
    width: int
    window: int
    batch: int

    @property
    def name(self) -> str:
        """In words."""
        return f'{self.arch} {self.height} x {self.width} window {self.window} batch {self.batch}'

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens along each axis."""
        return -(-self.height // PATCH_SIZE), -(-self.width // PATCH_SIZE)

    @property
    def padded(self) -> tuple[int, int]:
        """The same of whole windows."""
        return tuple(-(-n // self.window) * self.window for n in self.lengths)


G = Case('g', 1536, 1536, 32, 1)
CASES = {
    'right': [G, Case('tiny', 800, 1333, 16, 2), Case('tiny', 256, 256, 8, 64), Case('large', 1536, 1536, 48, 1)],
    'block': [G, Case('tiny', 256, 256, 8, 1), Case('tiny', 800, 1333, 16, 2), Case('large', 1536, 1536, 32, 1),
              Case('tiny', 256, 256, 8, 64), Case('base', 1024, 1024, 32, 1), Case('g', 1536, 1536, 48, 1),
              Case('large', 1024, 1024, 32, 1), Case('base', 800, 1333, 16, 2), Case('large', 1536, 1536, 48, 1),
              Case('base', 1536, 1536, 32, 1), Case('g', 1024, 1024, 32, 1), Case('tiny', 1536, 1536, 32, 1)],
    'backbone': [Case('tiny', 256, 256, 8, 1), G, Case('large', 1536, 1536, 32, 1), Case('tiny', 800, 1333, 16, 2),
                 Case('tiny', 256, 256, 8, 64), Case('base', 1024, 1024, 32, 1), Case('large', 1536, 1536, 48, 1)],
    'step': [G]}
TINY = {
    'right': [Case('tiny', 64, 52, 4, 1)], 'block': [Case('tiny', 64, 52, 4, 1)],
    'backbone': [Case('tiny', 64, 64, 4, 1)], 'step': [Case('tiny', 64, 64, 4, 1)]}
TINY_ARCH = dict(embed_dims=32, depths=(2, 1), num_heads=(2, 4))


class Unit(NamedTuple):
    """What makes one row: a dtype for ``right``, otherwise ``'forward'`` or ``'training'``."""

    section: str
    case: Case
    contender: str
    mode: str


class Refused(Exception):
    """A contender does not take a problem, and says why."""


def units(tiny: bool) -> list[Unit]:
    """All rows, what matters most first; what is compiled, which takes long, of few cases."""
    cases = TINY if tiny else CASES
    found = [Unit('right', case, name, dtype) for case in cases['right'] for dtype in ('bfloat16', 'float16', 'float32')
             for name in BACKENDS]
    ours = {'block': ['auto', *BACKENDS], 'backbone': ['auto', *(name for name in BACKENDS if name != 'eager')]}
    for section, names in ours.items():
        for i, case in enumerate(cases[section]):
            found += [Unit(section, case, name, mode) for name in (names[0], *PEERS, *names[1:]) for mode in MODES]
            if i < COMPILED[section]:
                found.append(Unit(section, case, 'released, compiled', 'training'))
    return found + [Unit('step', case, 'auto', 'training') for case in cases['step']]


# --- in the process of the contenders


class Bench:
    """Runs units on a device.

    Args:
        device: On which.
        tiny: Whether sizes are for a dry run.
    """

    def __init__(self, device: torch.device, tiny: bool) -> None:
        self.device, self.tiny = device, tiny
        self.seconds = .02 if tiny else .4  # that a call is repeated for
        self.measured_rate: float | None = None
        self.exact: tuple[tuple[Case, torch.dtype], list[Tensor]] | None = None  # the last answers in float64

    @property
    def rate(self) -> float:
        """Operations per second of a large product in bfloat16."""
        if self.measured_rate is None:
            n = 256 if self.tiny else 8192
            a, b = (torch.randn(n, n, device=self.device, dtype=torch.bfloat16) for _ in range(2))
            self.measured_rate = 2. * n**3 / self.median(lambda: a @ b)
        return self.measured_rate

    def arch(self, case: Case):
        """Sizes of a case's architecture."""
        return get_arch(TINY_ARCH if self.tiny else case.arch)

    def run(self, unit: Unit) -> dict:
        """A row's results.

        Raises:
            Refused: if the contender does not take it.
        """
        return getattr(self, unit.section)(unit)

    def synchronize(self) -> None:
        """Waits for the device."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)

    def autocast(self) -> AbstractContextManager:
        """To bfloat16."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def median(self, call: Callable[[], object]) -> float:
        """Seconds of a call, after two that are not counted."""
        for _ in range(2):
            call()
        self.synchronize()
        seconds, start = [], time.perf_counter()
        while len(seconds) < 3 or (len(seconds) < 50 and time.perf_counter() - start < self.seconds):
            seconds.append(self.once(call))
        return measure.median(seconds)

    def once(self, call: Callable[[], object]) -> float:
        """Seconds of a call, by the device's clock where it has one."""
        if self.device.type != 'cuda':
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
        call()
        events[1].record()
        self.synchronize()
        return events[0].elapsed_time(events[1]) / 1e3

    def timed(self, call: Callable[[], object], work: float | None) -> dict:
        """Milliseconds, peak of memory above what was there, fraction of the product's rate."""
        before = 0
        if self.device.type == 'cuda':
            self.rate  # not between
            gc.collect()
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        seconds = self.median(call)
        row: dict = dict(ms=1e3 * seconds)
        if self.device.type == 'cuda':
            row['peak_mib'] = (torch.cuda.max_memory_allocated(self.device) - before) / measure.MIB
        if work is not None:
            row['of_product_rate'] = work / seconds / self.rate
        return row

    # right

    def right(self, unit: Unit) -> dict:
        """Errors of a backend against float64 on two heads; whether a second run has the same bits."""
        case, dtype = unit.case, DTYPES[unit.mode]
        arch = self.arch(case)
        heads, dim, window = arch.num_heads[0], arch.dims[0] // arch.num_heads[0], (case.window,) * 2
        inputs, probe = self.draw(case, heads, dim, dtype)
        shift = tuple(case.window // 2 for _ in window)
        grid = tuple(map(Axis, case.lengths, window, shift))
        reason = BACKENDS[unit.contender].refuses(Problem(*inputs, grid))
        if reason is not None:
            raise Refused(reason)
        self.check_maps(unit)

        def answers(backend: str, inputs: list[Tensor], probe: Tensor) -> list[Tensor]:
            leaves = [x.detach().requires_grad_() for x in inputs]
            out = window_attention(*leaves, window=window, shift=shift, backend=backend)
            return [out.detach(), *torch.autograd.grad(out, leaves, probe)]
        first = answers(unit.contender, inputs, probe)
        kept = [x.clone() for x in first]
        del first
        self.poison()
        second = answers(unit.contender, inputs, probe)
        same = all(torch.equal(a, b) for a, b in zip(kept, second))
        finite = all(bool(x.isfinite().all()) for x in second)
        which = [0, heads - 1]

        def slices(qkv: Tensor, table: Tensor, scale: Tensor) -> list[Tensor]:
            qkv = qkv.unflatten(-1, (3, heads, dim))[..., which, :].flatten(-3)
            return [x.double() for x in (qkv, table[which], scale[which])]
        def of_two(x: Tensor) -> Tensor:
            return x.unflatten(-1, (heads, dim))[..., which, :].flatten(-2).double()
        if self.exact is None or self.exact[0] != (case, dtype):
            self.exact = (case, dtype), answers('cells', slices(*inputs), of_two(probe))
        out, dqkv, *rest = self.exact[1]
        ours = slices(*second[1:])
        pairs = dict(out=(of_two(second[0]), out), dtable=(ours[1], rest[0]), dscale=(ours[2], rest[1]))
        for i, name in enumerate(('dq', 'dk', 'dv')):
            pairs[name] = tuple(x.unflatten(-1, (3, -1))[..., i, :] for x in (ours[0], dqkv))
        errors = {name: ((a - b).norm() / b.norm()).item() for name, (a, b) in pairs.items()}
        bound = BOUNDS[dtype]
        within = all(errors[name] <= bound * (SCALE_BOUND if name == 'dscale' else 1) for name in ANSWERS)
        return dict(status='ok' if within and same and finite else 'WRONG', same_bits=same, finite=finite, bound=bound,
                    errors=errors)

    def check_maps(self, unit: Unit) -> None:
        """Refuses whole attention maps where they are large."""
        case = unit.case
        pairs = math.prod(Axis(n, case.window, case.window // 2).pairs for n in case.lengths)
        size = 4 * case.batch * self.arch(case).num_heads[0] * pairs
        if unit.contender == 'eager' and size > EAGER_BYTES:
            raise Refused(f'whole attention maps take {size / 2**30:.0f} GiB')

    def draw(self, case: Case, heads: int, dim: int, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
        """Inputs with scales from 10 to nearly 100, and the gradient of the result."""
        generator = torch.Generator(self.device).manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, device=self.device, generator=generator)
        shape = case.batch, *case.lengths
        side = 2 * case.window - 1
        scale = torch.linspace(math.log(10), math.log(99), heads, device=self.device).view(-1, 1, 1)
        return ([normal(*shape, 3 * heads * dim).to(dtype), 16 * torch.sigmoid(normal(heads, side, side)), scale],
                normal(*shape, heads * dim).to(dtype))

    def poison(self) -> None:
        """Fills memory that is free, and will be given out again, with NaN."""
        most = 20 if self.tiny else 31
        kept = [torch.full((2**i // 4,), math.nan, device=self.device) for i in range(9, most) for _ in range(2)]
        self.synchronize()
        del kept

    # block

    def block(self, unit: Unit) -> dict:
        """One shifted block."""
        case, name = unit.case, unit.contender
        self.check_maps(unit)
        block, sides = self.build_block(case, name)
        block.train(unit.mode == 'training')
        arch = self.arch(case)
        x = torch.randn(case.batch, *sides, arch.dims[0], device=self.device)
        tokens = case.batch * math.prod(case.padded)
        work = 2. * tokens * arch.dims[0] * (12 * arch.dims[0] + 2 * case.window**2)
        return self.timed(self.pass_(block, x, unit.mode), work * (3 if unit.mode == 'training' else 1))

    def build_block(self, case: Case, name: str) -> tuple[nn.Module, tuple[int, int]]:
        """A block and the tokens of its map along each axis."""
        arch = self.arch(case)
        args = Namespace(dim=arch.dims[0], heads=arch.num_heads[0], window=case.window)
        ours = attention.build(name if name in attention.OURS else 'auto', args, max(case.padded))
        if name in attention.OURS:
            return ours.to(self.device), case.lengths
        if name.startswith('released'):
            block: nn.Module = ReleasedBlock(args.dim, args.heads, case.window, case.window // 2, case.padded)
            block.load_state_dict(ours.state_dict())
            block.to(self.device)
            return (self.compile(block) if 'compiled' in name else block), case.padded
        self.need(name)
        if name == 'transformers':
            return attention.Transformers(args, case.lengths, ours.state_dict()).to(self.device), case.lengths
        if name == 'timm':
            return attention.Timm(args, case.padded, ours.state_dict()).to(self.device), case.padded
        raise ValueError(f'contender must be one of {", ".join([*attention.OURS, *PEERS])}, got {name!r}')

    def compile(self, module: nn.Module) -> nn.Module:
        """Compiled, and nothing known of the last one: after some sizes torch would compile no more."""
        torch._dynamo.reset()
        return torch.compile(module, backend='aot_eager' if self.tiny else 'inductor')

    def need(self, package: str) -> None:
        """Refuses what is not installed."""
        if importlib.util.find_spec(package) is None:
            raise Refused(f'{package} is not installed')

    def pass_(self, block: nn.Module, x: Tensor, mode: str) -> Callable[[], object]:
        """What is timed."""
        if mode == 'forward':
            def forward():
                with torch.no_grad(), self.autocast():
                    return block(x)
            return forward
        x = x.requires_grad_()
        probe = torch.randn_like(x)
        leaves = [x, *block.parameters()]

        def training():
            with self.autocast():
                y = block(x)
            return torch.autograd.grad(y, leaves, probe.to(y.dtype))
        return training

    # backbone

    def backbone(self, unit: Unit) -> dict:
        """A backbone: images to maps, or to gradients; large ones are checkpointed."""
        case, training = unit.case, unit.mode == 'training'
        model = self.build_backbone(unit, with_cp=training and case.height >= CHECKPOINTED).train(training)
        x = torch.randn(case.batch, 3, case.height, case.width, device=self.device)

        def call():
            with torch.set_grad_enabled(training), self.autocast():
                outs = backbone.outputs(model, x)
            if training:
                model.zero_grad()
                sum(o.float().square().mean() for o in outs).backward()
        return dict(self.timed(call, None), parameters=sum(p.numel() for p in model.parameters()))

    def build_backbone(self, unit: Unit, *, with_cp: bool) -> nn.Module:
        """Random weights, made on the device."""
        case, name, arch = unit.case, unit.contender, self.arch(unit.case)
        if name in ('timm', 'transformers'):
            self.need(name)
            sizes = dict(embed_dim=arch.embed_dims, depths=list(arch.depths), num_heads=list(arch.num_heads),
                         window_size=case.window)
            if name == 'transformers':
                from transformers import Swinv2Config, Swinv2Model
                with torch.device(self.device):
                    model = Swinv2Model(Swinv2Config(image_size=case.height, **sizes), add_pooling_layer=False)
                if with_cp:
                    model.gradient_checkpointing_enable()
                return model.to(self.device)
            from timm.models.swin_transformer_v2 import SwinTransformerV2 as Timm
            with torch.device(self.device):
                model = Timm(img_size=(case.height, case.width), num_classes=0, **sizes)
            model.set_grad_checkpointing(with_cp)
            return model.to(self.device)
        stages = len(arch.depths)
        with torch.device(self.device):
            model = SwinTransformerV2(
                dict(embed_dims=arch.embed_dims, depths=arch.depths, num_heads=arch.num_heads,
                     extra_norm_every_n_blocks=arch.extra_norm_every_n_blocks),
                window_size=[case.window] * (stages - 1) + [max(2, case.window // 2)], drop_path_rate=0.,
                out_indices=tuple(range(stages)), with_cp=with_cp,
                attn_backend=name if name in attention.OURS else 'auto')
            if name.startswith('released'):
                if case.height != case.width:
                    raise Refused('windows must divide the maps of all stages, which are square')
                try:
                    backbone.with_released_blocks(model, case.height)
                except ValueError as e:
                    raise Refused(str(e)) from None
                model.to(self.device)
        return self.compile(model) if 'compiled' in name else model

    # step

    def step(self, unit: Unit) -> dict:
        """A training step of the whole backbone with AdamW."""
        case = unit.case
        model = self.build_backbone(unit, with_cp=True).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=self.device.type == 'cuda')
        x = torch.randn(case.batch, 3, case.height, case.width, device=self.device)

        def call():
            optimizer.zero_grad()
            with self.autocast():
                outs = model(x)
            loss = sum(o.float().square().mean() for o in outs)
            loss.backward()
            optimizer.step()
            return loss
        row = self.timed(call, None)
        loss = call().item()
        if not math.isfinite(loss):
            row['status'] = 'WRONG'
        return dict(row, loss=loss, parameters=sum(p.numel() for p in model.parameters()))


def work(args: argparse.Namespace) -> None:
    """The process of the contenders: numbers of units come in, a row each goes out."""
    rows = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # what contenders print is none

    def say(row: dict) -> None:
        rows.write(json.dumps(row) + '\n')
        rows.flush()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    device = torch.device(args.device)
    bench, all_units = Bench(device, args.tiny), units(args.tiny)
    say(dict(section='machine', machine=measure.machine(), device=str(device), product_tflops=bench.rate / 1e12,
             backends=list(BACKENDS)))
    for line in sys.stdin:
        unit = all_units[int(line)]
        try:
            say(dict(status='ok') | bench.run(unit))
        except Refused as e:
            say(dict(status='refused', reason=str(e)))
        except torch.cuda.OutOfMemoryError as e:
            say(dict(status='out of memory', reason=str(e)[:200]))
        except Exception as e:
            reason = f'{type(e).__name__}: {" ".join(str(e).split())[:300]}'
            say(dict(status='refused' if 'does not support this input' in reason else 'error', reason=reason))
        gc.collect()
        if device.type == 'cuda':
            torch.cuda.empty_cache()
            torch.cuda.synchronize()  # raises where the device is spoilt: this process ends, and another begins


# --- in the process that keeps the time


class Worker:
    """The process of the contenders, begun again when it has ended."""

    def __init__(self, command: list[str]) -> None:
        self.command, self.process = command, None

    def begin(self, seconds: float) -> dict:
        """Starts it where it is not running; returns what it says of the machine, or a failure."""
        self.errors = tempfile.TemporaryFile('w+')
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                                        text=True)
        self.lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, args=(self.process.stdout, self.lines), daemon=True).start()
        return self._next(seconds)

    @staticmethod
    def _read(stream, lines: queue.Queue) -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    @property
    def running(self) -> bool:
        """Whether it is."""
        return self.process is not None and self.process.poll() is None

    def ask(self, number: int, seconds: float) -> dict:
        """The row of a unit, or how it failed."""
        try:
            self.process.stdin.write(f'{number}\n')
            self.process.stdin.flush()
        except OSError:
            return self._failed('error')
        return self._next(seconds)

    def _next(self, seconds: float) -> dict:
        try:
            line = self.lines.get(timeout=max(.1, seconds))
        except queue.Empty:
            return self._failed('too long', f'more than {seconds:.0f} s')
        return json.loads(line) if line is not None else self._failed('error')

    def _failed(self, status: str, reason: str = '') -> dict:
        self.end()
        self.errors.seek(0)
        return dict(status=status, reason=reason or f'the process ended: {self.errors.read()[-300:]}')

    def end(self) -> None:
        """Ends it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def measure_all(args: argparse.Namespace, command: list[str], write: Callable[[dict], None]) -> None:
    """Takes one unit after another while there is time.

    Args:
        args: Of the command line.
        command: That starts the process of the contenders.
        write: Is given each row.
    """
    start = time.monotonic()
    worker = Worker(command)
    failures = 0
    try:
        for number, unit in enumerate(units(args.tiny)):
            if unit.section not in args.sections:
                continue
            row = dict(section=unit.section, case=unit.case.name, contender=unit.contender, mode=unit.mode)
            now = time.monotonic() - start
            if now > SHARES[unit.section] * args.seconds or failures >= 3:
                write(row | dict(status='skipped', reason='no time left' if failures < 3 else 'no process begins'))
                continue
            if not worker.running:
                begun = worker.begin(min(LIMIT, args.seconds - now))
                failures = 0 if 'machine' in begun else failures + 1
                write(begun if 'machine' in begun else row | begun)
                if failures:
                    continue
            now = time.monotonic() - start
            left = SHARES[unit.section] * args.seconds - now
            limit = left if unit.section == 'step' else min(LIMIT, left + LATE * args.seconds)
            asked = time.monotonic()
            found = worker.ask(number, limit)
            write(row | found | dict(took_s=round(time.monotonic() - asked, 2)))
    finally:
        worker.end()


def report(rows: list[dict]) -> list[str]:
    """Markdown, by section."""
    machines = [row for row in rows if row['section'] == 'machine']
    parts = [f'{row["machine"]}; product {row["product_tflops"]:.3g} TFLOP/s in bfloat16 ({row["device"]}); backends: '
             f'{", ".join(row["backends"])}.\n' for row in machines[:1]]
    if len(machines) > 1:
        parts.append(f'The process of the contenders was begun {len(machines)} times.\n')
    parts.append(f'{__doc__.split(chr(10) * 2, 1)[1]}')
    for section in SHARES:
        found = [row for row in rows if row['section'] == section]
        skipped = sum(row['status'] == 'skipped' for row in found)
        found = [row for row in found if row['status'] != 'skipped']
        parts.append(f'## {section}\n')
        if skipped:
            parts.append(f'{skipped} rows were skipped for want of time.\n')
        lines = list(_lines(section, found))
        if lines:
            head = ['case', 'contender', 'mode', 'status']
            head += ['same bits', *ANSWERS] if section == 'right' else [
                'ms', 'of released', 'peak MiB', 'of released', 'of the product rate']
            parts.append(measure.table(head, lines))
    return parts


def _lines(section: str, rows: list[dict]) -> Iterator[list[object]]:
    released = {(row['case'], row['mode']): row for row in rows if row['contender'] == 'released'}

    def times(row: dict, key: str) -> str:
        other = released.get((row['case'], row['mode']), {}).get(key)
        return f'{row[key] / other:.2f}' if other and row.get(key) else ''
    for row in rows:
        status = row['status'] + (f': {row["reason"]}'.replace('|', '/') if row.get('reason') else '')
        line = [row['case'], row['contender'], row['mode'], status]
        if section == 'right':
            errors = row.get('errors', {})
            yield [*line, row.get('same_bits', ''), *(f'{errors[n]:.1e}' if n in errors else '' for n in ANSWERS)]
        else:
            yield [*line, *(f'{row["ms"]:.2f}' if 'ms' in row else '',), times(row, 'ms'),
                   f'{row["peak_mib"]:.0f}' if 'peak_mib' in row else '', times(row, 'peak_mib'),
                   f'{row["of_product_rate"]:.1%}' if 'of_product_rate' in row else '']


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--tiny', action='store_true', help='sizes for a dry run, as on a CPU')
    parser.add_argument('--seconds', type=float, default=SECONDS, help='in all')
    parser.add_argument('--sections', nargs='+', choices=SHARES, default=[*SHARES])
    parser.add_argument('--threads', type=int, default=0, help="of a CPU; 0: torch's default")
    parser.add_argument('--rows', default='gpu.jsonl', help='a file of JSON lines, written as they come')
    parser.add_argument('--out', default='gpu.md', help='a Markdown file')
    parser.add_argument('--worker', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    command = [sys.executable, __file__, '--worker', '--device', args.device, '--threads', str(args.threads),
               *['--tiny'] * args.tiny]
    found: list[dict] = []
    with Path(args.rows).open('w') as file:
        def write(row: dict) -> None:
            found.append(row)
            file.write(json.dumps(row) + '\n')
            file.flush()
        measure_all(args, command, write)
    measure.report('Attention, blocks and backbones on a GPU' if args.device != 'cpu' else 'A dry run, no measurement',
                   report(found), args.out)


if __name__ == '__main__':
    main()
