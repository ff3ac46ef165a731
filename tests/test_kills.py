"""Training killed at random moments ends with the weights of training that was not."""
import random

import pytest
import torch

from helpers import runs
from mmswinv2.engine import read_run

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg]

KILLS = 20


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize('host, workers, iterations', [('mmdet', 2, 60), ('mmseg', 0, 120)])
def test_twenty_kills(host, workers, iterations, tmp_path, mini_data):
    """Half of the kills come at a random moment, half while a checkpoint is being written."""
    config = runs.write_config(tmp_path, host, iters=iterations, interval=1, workers=workers)
    chance = random.Random(0)
    kills = [chance.uniform(1., 8.) if i % 2 else chance.randint(1, 3) for i in range(KILLS)]
    steps = [runs.step(host, config, tmp_path / 'straight', limit=600)]
    steps += [runs.step(host, config, tmp_path / 'killed', '--resume', kill=kill) for kill in kills]
    steps += [runs.step(host, config, tmp_path / 'killed', '--resume', limit=600)]
    codes, logs = runs.train_in_turn(tmp_path, steps, data=mini_data(host), timeout=1400)
    print('\n'.join(f'kill at {kill}: {left}' for kill, left in zip(kills, codes[1:-1])))
    assert codes[0] == codes[-1] == [0], logs[-1][-3000:]
    assert all(left == 'nothing written' or left.startswith('whole ') for left in codes[1:-1]), codes
    assert codes[-2] != f'whole iter_{iterations}.pth'  # each of the twenty hit a run
    expected, got = (read_run(tmp_path / name / f'iter_{iterations}.pth')
                     for name in ('straight', 'killed'))
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_identical(got[part], expected[part], part)


def assert_identical(a, b, where):
    """The same tensors, bit by bit, and the same values."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for k in a:
            assert_identical(a[k], b[k], f'{where}.{k}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b)):
            assert_identical(x, y, f'{where}.{i}')
    else:
        assert a == b, where
