"""Random damages of checkpoints: refused in one line, read bit by bit, or such as no file of that kind can show."""
import sys

import pytest

from helpers import damage, runs

pytestmark = pytest.mark.core


def test_a_few_damages():
    counts, failures = damage.run(40, seed=2)
    assert failures == []
    assert {name: sum(count.values()) for name, count in counts.items()} == dict.fromkeys(
        ['own', 'deflated', 'microsoft', 'legacy', 'safetensors'], 40)


@pytest.mark.slow
def test_a_thousand_damages_of_each_container():
    """In a process of its own, so that a crash or a hang is a failure, and memory is its own."""
    code, output = runs.run([sys.executable, damage.__file__, '1000'], runs.environment(), timeout=900)
    print(output)
    assert code == 0, output[-3000:]
    counts = dict(line.split(maxsplit=1) for line in output.splitlines() if line.strip())
    for name in ('own', 'deflated', 'microsoft'):
        assert counts[name].endswith('undetectable 0, wrong 0'), counts
