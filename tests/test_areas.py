"""Each test module says what it needs, and is left out where that is missing: the others are collected all the same."""
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.areas import AREAS, areas

pytestmark = pytest.mark.core

TESTS = Path(__file__).parent
HOSTS = [area for area in AREAS if area != 'core']
COLLECT = '''
import sys
import warnings
sys.modules.update(dict.fromkeys(sys.argv[2:]))  # an import of these fails
import pytest
sys.exit(pytest.main(['--collect-only', '-q', '-p', 'no:cacheprovider', '-p', 'no:xdist', sys.argv[1]]))
'''


@pytest.mark.parametrize('absent', [HOSTS, pytest.param(['mmseg', 'mmpretrain', 'mim'], marks=pytest.mark.slow)])
def test_what_is_there_is_collected_without_the_rest(absent):
    """Modules import no more than their areas say."""
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', COLLECT, str(TESTS), *absent], text=True,
                            capture_output=True, timeout=200, cwd=TESTS.parent)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    collected = {line.partition('::')[0].rpartition('/')[2] for line in result.stdout.splitlines() if '::' in line}
    left_out = {path.name for path in TESTS.glob('test_*.py') if set(areas(path)) & set(absent)}
    assert collected and left_out and not collected & left_out
    assert f'not collected without {absent[0]}' in result.stdout
