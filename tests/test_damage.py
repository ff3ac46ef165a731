"""Random damages of checkpoints: refused in one line, read bit by bit, or such as no file of that kind can show."""
import resource

import pytest

from helpers import damage

pytestmark = pytest.mark.core


@pytest.mark.parametrize('number, seed', [(40, 2), pytest.param(1000, 0, marks=[
    pytest.mark.slow, pytest.mark.timeout(900)])])
def test_damages_of_each_container(number, seed, tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts, failures = damage.run(tmp_path, number, seed)
    assert failures == []
    assert {name: sum(count.values()) for name, count in counts.items()} == dict.fromkeys(
        ['own', 'deflated', 'microsoft', 'legacy', 'safetensors'], number)
    assert all(counts[name].keys() <= {'refused', 'right'} for name in ('own', 'deflated', 'microsoft'))
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 300  # MiB
