"""What every test has: its area, hypothesis' profile, seeds, a quick disk; small data sets for whole runs."""
import os
import subprocess
import sys
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import settings

import emulated
from helpers.areas import missing
from helpers.attention import FAST
from mmswinv2.core.attention import torch_fused
from mmswinv2.hosts import is_installed

torch.set_num_threads(1 if 'PYTEST_XDIST_WORKER' in os.environ else 2)
settings.register_profile('tests', derandomize=True, deadline=None, database=None, max_examples=60)
settings.load_profile('tests')

# mmdet cannot be imported otherwise, beside mmpretrain and transformers, and mmaction2 not at all
if is_installed('mmengine'):
    from mmswinv2.engine.repairs import leave_out_multimodal_models, leave_out_vindlu, stand_in_for_drn
    leave_out_multimodal_models()
    leave_out_vindlu()
    stand_in_for_drn()

TESTS = Path(__file__).parent
LONG = ['test_distributed.py', 'test_mim.py', 'test_triton.py']  # begun first, or one worker ends alone with them


def pytest_ignore_collect(collection_path):
    """A test module whose packages are not there is left out; the summary says so."""
    if collection_path.match('test_*.py') and missing(collection_path):
        return True
    return None


def pytest_terminal_summary(terminalreporter):
    """Which modules are left out, and why."""
    left_out = {}
    for path in sorted(TESTS.glob('test_*.py')):
        if absent := missing(path):
            left_out.setdefault(' and '.join(absent), []).append(path.stem)
    for absent, names in sorted(left_out.items()):
        terminalreporter.write_line(f'not collected without {absent}: {", ".join(names)}')


def pytest_collection_modifyitems(config, items):
    """Slow tests run when ``-m`` names them, tests of a GPU where there is one; modules that take long are first."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
    reasons = {}
    if 'slow' not in config.option.markexpr:
        reasons['slow'] = 'takes minutes: make test-slow, or -m slow'
    if not torch.cuda.is_available():
        reasons['gpu'] = 'needs a CUDA device'
    for item in items:
        for mark, reason in reasons.items():
            if item.get_closest_marker(mark) is not None:  # keywords have names of folders too
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def seed():
    """What draws from torch's own generator (drop path, dropout, initial weights) draws the same in each run."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Files are not waited for: under load that takes seconds each. Tests of durability undo this."""
    monkeypatch.setattr('mmswinv2.core.weights.files._sync', lambda path: None)


@pytest.fixture
def rng():
    """A seeded generator of inputs."""
    return torch.Generator().manual_seed(1)


@pytest.fixture(params=[*FAST, 'torch'])
def kernel(request):
    """The name of a kernel of attention; torch's fused one is emulated on a CPU meanwhile."""
    if request.param == 'torch' and not torch_fused.HAS_OPERATORS:
        pytest.skip('torch has no such operators')
    with emulated.on_a_cpu() if request.param == 'torch' else nullcontext():
        yield request.param


@pytest.fixture(scope='session')
def mini_data(tmp_path_factory):
    """A function that makes the small data set of a host, once, and gives its folder."""
    @cache
    def make(host):
        folder = tmp_path_factory.mktemp('data') / host
        tool = TESTS.parent / 'demos' / f'make_mini_{dict(mmdet="coco", mmseg="ade20k")[host]}.py'
        subprocess.run([sys.executable, tool, folder, '--train', '6', '--val', '2'], check=True, timeout=120)
        return folder
    return make
