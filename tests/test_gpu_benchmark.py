"""The benchmark for a GPU, in a dry run on a CPU, and what it survives."""
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from unittest import mock

import pytest
import torch

import emulated
import gpu
from mmswinv2.core import SwinBlock
from mmswinv2.core.attention import BACKENDS, torch_fused

pytestmark = pytest.mark.core

SCRIPT = Path(gpu.__file__)
STATUSES = {'ok', 'refused', 'skipped', 'error'}


@pytest.mark.slow
def test_a_dry_run(tmp_path):
    """Every row is there, ours are right, and nothing was measured twice or left out."""
    rows, out = tmp_path / 'rows.jsonl', tmp_path / 'report.md'
    subprocess.run([sys.executable, '-W', 'ignore', SCRIPT, '--device', 'cpu', '--tiny', '--threads', '1', '--seconds',
                    '200', '--rows', rows, '--out', out], check=True, timeout=240, capture_output=True)
    machine, *found = map(json.loads, rows.read_text().splitlines())
    assert machine['section'] == 'machine' and machine['backends'] == [*BACKENDS]
    units = gpu.units(tiny=True)
    assert [(r['section'], r['case'], r['contender'], r['mode']) for r in found] == [
        (u.section, u.case.name, u.contender, u.mode) for u in units]
    ours = {(r['section'], r['contender'], r['mode']): r for r in found if r['contender'] in ('auto', 'cells', 'eager')}
    assert {r['status'] for r in ours.values()} == {'ok'}
    assert {r['status'] for r in found} <= STATUSES
    assert {r['same_bits'] and r['finite'] for r in found if r['section'] == 'right' and r['status'] == 'ok'} == {True}
    assert {r['status'] for r in found if r['contender'].startswith('released')} == {'ok'}
    assert ours['step', 'auto', 'training']['ms'] > 0
    assert all(f'\n## {section}\n' in out.read_text() for section in gpu.SHARES)


def right(contender, dtype='bfloat16'):
    bench = gpu.Bench(torch.device('cpu'), tiny=True)
    return bench.run(gpu.Unit('right', gpu.TINY['right'][0], contender, dtype))


@pytest.mark.skipif(not torch_fused.HAS_OPERATORS, reason='torch has no such operators')
def test_a_kernel_that_is_wrong_is_found():
    attend, draw = emulated.fused_forward, torch.Generator()

    def wrong(qkv, bias):
        return attend(qkv, bias)[0] * 1.03, attend(qkv, bias)[1]

    def other_bits(qkv, bias):
        return attend(qkv, bias)[0] + 1e-3 * torch.rand((), generator=draw).half(), attend(qkv, bias)[1]

    with emulated.on_a_cpu():
        assert right('torch')['status'] == 'ok'
        with mock.patch.object(torch_fused, 'fused_forward', wrong):
            row = right('torch')
        assert row['status'] == 'WRONG' and row['errors']['out'] > .02 and row['same_bits']
        with mock.patch.object(torch_fused, 'fused_forward', other_bits):
            assert not right('torch')['same_bits'] and right('torch')['status'] == 'WRONG'


def test_a_backend_that_refuses_says_why():
    with pytest.raises(gpu.Refused, match='it is for CUDA devices, not for cpu'):
        right('torch')


WORKER = """
import sys, time
print('{"section": "machine", "machine": "a", "device": "b", "product_tflops": 1, "backends": []}', flush=True)
for line in sys.stdin:
    n = int(line)
    if n == 1: sys.exit('spoilt')
    if n == 2: time.sleep(60)
    print('{"status": "ok", "ms": 1.0}', flush=True)
"""


def args(**options):
    return Namespace(**{**dict(tiny=True, seconds=60., sections=['block'], device='cpu', threads=1), **options})


def test_a_process_that_ends_or_hangs_is_begun_again(monkeypatch):
    case = gpu.TINY['block'][0]
    monkeypatch.setattr(gpu, 'units', lambda tiny: [gpu.Unit('block', case, name, 'forward') for name in 'abcd'])
    monkeypatch.setattr(gpu, 'LIMIT', 3.)
    rows = []
    gpu.measure_all(args(), [sys.executable, '-c', WORKER], rows.append)
    assert [row.get('status', 'machine') for row in rows] == [
        'machine', 'ok', 'error', 'machine', 'too long', 'machine', 'ok']
    assert 'spoilt' in rows[2]['reason'] and rows[4]['reason'] == 'more than 3 s'
    assert 'begun 3 times' in '\n'.join(gpu.report(rows))


@pytest.mark.parametrize('command, seconds, reason', [
    ('WORKER', 0., 'no time left'), ('raise SystemExit("no driver")', 60., 'no process begins')])
def test_rows_without_time_or_device_are_skipped(command, seconds, reason):
    rows = []
    code = WORKER if command == 'WORKER' else command
    gpu.measure_all(args(seconds=seconds), [sys.executable, '-c', code], rows.append)
    assert len(rows) == sum(u.section == 'block' for u in gpu.units(tiny=True))
    assert rows[-1]['status'] == 'skipped' and rows[-1]['reason'] == reason
    assert sum(row['status'] == 'error' and 'no driver' in row['reason'] for row in rows) == (3 if seconds else 0)


@pytest.mark.parametrize('name', ['auto', *BACKENDS])
def test_a_block_is_of_the_class_that_its_contender_is_named_after(name):
    bench, case = gpu.Bench(torch.device('cpu'), tiny=True), gpu.TINY['block'][0]
    block, _ = bench.build_block(case, name)
    assert type(block) is SwinBlock and block.attn.config.attn_backend == name
    if name in ('torch', 'triton'):
        with pytest.raises(RuntimeError, match=f'backend {name!r} does not support this input: '):
            bench.run(gpu.Unit('block', case, name, 'forward'))


def test_an_unknown_contender_is_no_other():
    with pytest.raises(ValueError, match='contender must be one of auto, .*timm.*, got .flash.'), mock.patch.object(
            gpu.Bench, 'need'):
        gpu.Bench(torch.device('cpu'), tiny=True).build_block(gpu.TINY['block'][0], 'flash')


def test_a_checkout_is_found_without_an_installation():
    assert str(SCRIPT.parents[1]) in sys.path
