"""What benchmarks share: interleaved medians, peak memory in fresh processes, the machine in words, Markdown."""
from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

MIB = 2**20
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]  # a checkout that is not installed, and the planner


def interleaved(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, one of each in turn, after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def matmul_call(n: int = 2048) -> tuple[Callable[[], object], float]:
    """A product of large float32 matrices, to say what the machine can do now, and its floating-point operations."""
    a, b = torch.randn(n, n), torch.randn(n, n)
    return (lambda: a @ b), 2. * n**3


@contextmanager
def neighbour(niceness: int | None) -> Iterator[None]:
    """While it is entered, another process keeps a core busy, at this niceness; None for no such process."""
    if niceness is None:
        yield
        return
    command = ['nice', '-n', str(niceness), sys.executable, '-c', 'while True: pass']
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.kill()


def resident(key: str) -> int:
    """Bytes of this process: ``'VmRSS'`` now, ``'VmHWM'`` at most so far (Linux)."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(key + ':'):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f'/proc/self/status has no {key}')


def settle_allocator() -> None:
    """Brings the C library to the state of a process that has loaded a checkpoint.

    glibc hands freed memory back to the system, to be mapped again page by page, above a threshold that grows with the
    largest block ever freed (up to 32 MiB). In a fresh process what a model happens to free decides: 5000 page faults
    or none in a pass of SwinV2-T at 256 px, a tenth of its time.
    """
    torch.empty(31 * MIB, dtype=torch.uint8).fill_(0)


def forget_peak() -> None:
    """Starts the process' peak anew from what it uses now."""
    Path('/proc/self/clear_refs').write_text('5')


def in_fresh_process(script: str, *args: object, returned: bool = False) -> dict:
    """Runs a benchmark script again with ``--child`` and reads what it prints as JSON in its last line.

    With ``returned``, the C library gives freed memory back at once, so that resident memory is memory in use.
    """
    command = [sys.executable, script, '--child', *map(str, args)]
    env = dict(os.environ, PYTHONWARNINGS='ignore')
    if returned:
        env['MALLOC_MMAP_THRESHOLD_'] = str(256 * 1024)
    result = subprocess.run(command, capture_output=True, text=True, env=env)
    if result.returncode:
        raise RuntimeError(f'{" ".join(command)} failed:\n{result.stderr[-2000:]}')
    return json.loads(result.stdout.splitlines()[-1])


def machine() -> str:
    """Processor, cores, memory and versions, for the head of a table."""
    info = Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else ''
    names = [line.split(':', 1)[1].strip() for line in info.splitlines() if line.startswith('model name')]
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
    versions = [f'Python {platform.python_version()}', f'torch {torch.__version__}']
    for package in ('transformers', 'timm'):
        try:
            versions.append(f'{package} {importlib.metadata.version(package)}')
        except importlib.metadata.PackageNotFoundError:
            pass
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'
    processor = names[0] if names else platform.processor()
    return (f'{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {memory:.0f} GiB, {device}; '
            f'{", ".join(versions)}')


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines) + '\n'


def report(title: str, parts: Sequence[str], out: str | None) -> None:
    """Prints a report with the machine and the command that made it, and writes it to a file."""
    arguments = [os.path.relpath(a) if os.path.isabs(a) else a for a in sys.argv]
    command = ' '.join(['python', *arguments])
    text = '\n'.join([f'# {title}', '', f'{time.strftime("%Y-%m-%d")}. {machine()}. Made by `{command}`.', '', *parts])
    print(text)
    if out is not None:
        Path(out).write_text(text)
