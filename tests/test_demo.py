"""The demos from end to end, on three data sets: minutes each."""
import os
import sys
from pathlib import Path

import pytest

import demo
import demo_seg
from helpers.runs import run

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg, pytest.mark.mim]


@pytest.mark.slow
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_demo_reaches_its_bound(seed, tmp_path):
    code, output = run([sys.executable, demo.__file__, '--seed', str(seed), '--work-dir', str(tmp_path / 'work')],
                       dict(os.environ), timeout=2200)
    assert code == 0, output[-4000:]
    assert Path(tmp_path / 'work' / 'predictions.png').stat().st_size > 10_000
    rows = {line[:10].strip(): [float(v) for v in line[10:].split()] for line in output.splitlines()
            if line.startswith(('box', 'mask'))}
    assert list(rows) == ['box', 'box, TTA', 'mask', 'mask, TTA']
    assert rows['box'][1] >= demo.BOUND and rows['mask'][1] >= demo.BOUND


@pytest.mark.slow
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_demo_of_segmentation_reaches_its_bound(seed, tmp_path):
    code, output = run([sys.executable, demo_seg.__file__, '--seed', str(seed), '--work-dir', str(tmp_path / 'work')],
                       dict(os.environ), timeout=2200)
    assert code == 0, output[-4000:]
    assert Path(tmp_path / 'work' / 'predictions.png').stat().st_size > 10_000
    rows = {line[:14].strip(): [float(v) for v in line[14:].split()] for line in output.splitlines()
            if line.startswith('window')}
    assert list(rows) == list(demo_seg.TESTS)
    assert rows['window 8'][0] >= demo_seg.BOUND
