"""Errors of attention in 16 bit, emulated on a CPU: no worse than those of the released code under autocast."""
import sys

import pytest
import torch

import precision
from mmswinv2.core.attention import torch_fused

pytestmark = pytest.mark.core

ROWS = {}


def rows(dtype, scale):
    """Those of a window of 64 tokens, once."""
    if (dtype, scale) not in ROWS:
        ROWS[dtype, scale] = precision.rows(precision.DTYPES[dtype], scale, window=8, heads=4, dim=32, draws=32)
    return ROWS[dtype, scale]


@pytest.mark.parametrize('scale', precision.SCALES)
@pytest.mark.parametrize('dtype', precision.DTYPES)
def test_not_worse_than_released_in_any_column(dtype, scale):
    found = rows(dtype, scale)
    released, ours = found['released'], {name: e for name, e in found.items() if name not in ('released', 'rounded')}
    assert {'eager', 'cells'} <= ours.keys() and ('torch' in ours) == torch_fused.HAS_OPERATORS
    worse = {name: precision.worse(e, released) for name, e in ours.items()}
    noise = worse.get('torch', {}).pop('dscale', 1.)  # in float16 at a scale of 10, where both are near 2e-3
    assert worse == {name: {} for name in ours} and noise < 1.2
    assert all(e[column] is not None for name, e in ours.items() if name != 'triton' for column in precision.COLUMNS)


def test_the_released_code_is_that_of_the_review():
    """Its errors at a scale of 100, in bfloat16 and float16, where 1024 tokens had 0.38 and 0.053 in a logit."""
    assert .2 < rows('bfloat16', 100.)['released']['logit max'] < .5
    assert .025 < rows('float16', 100.)['released']['logit max'] < .06


def test_float32_inputs_of_eager_are_exact():
    case = precision.draw(torch.float32, 100., window=4)
    found = precision.errors(precision.by_backend('eager', case), precision.by_float64(case))
    assert max(found.values()) < 1e-4


def test_the_gradient_of_the_scale_at_the_clamp():
    """What cancels in it is taken from the result, which bfloat16 rounds: without a correction 7e-2, released 3e-2."""
    if 'torch' not in rows('bfloat16', 100.):
        pytest.skip('torch has no such operators')
    assert rows('bfloat16', 100.)['torch']['dscale'] < .03 < rows('bfloat16', 100.)['released']['dscale']


def test_columns_that_are_worse():
    same = dict.fromkeys(precision.COLUMNS, 1.)
    assert precision.worse(same | {'out': 1.005, 'dq': None, 'dv': 3.}, same) == {'dv': 3.}


def test_a_report(monkeypatch, capsys, tmp_path):
    out = tmp_path / 'precision.md'
    monkeypatch.setattr(precision, 'PAIRS', 1000)
    monkeypatch.setattr(sys, 'argv', ['precision.py', '--windows', '4', '--heads', '1', '--scales', '10', '--dtypes',
                                      'float16', '--out', str(out)])
    precision.main()
    assert '## float16, scale 10, 16 tokens' in out.read_text() and '| released |' in capsys.readouterr().out
