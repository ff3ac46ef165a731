"""The table of models in configs/README.md is what the configs say."""
import re

import pytest

import model_table
from model_table import HOSTS, ROOT

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg, pytest.mark.mmpretrain, pytest.mark.mmaction]

LINES = [line for line in (ROOT / 'configs' / 'README.md').read_text().splitlines(keepends=True) if '](mm' in line]


def test_every_recipe_has_a_line():
    rows = [re.search(r'\((mm\w+/[\w-]+\.py)\)', line)[1] for line in LINES if line.startswith('| [')]
    assert rows == [f'{host}/{path.name}' for host in HOSTS for path in model_table.recipes(ROOT, host)]


@pytest.mark.parametrize('name', ['swinv2_t_256-w8', 'upernet_swinv2_t_512-w16'])
def test_a_line(name):
    found = [line for line in model_table.table(ROOT, (name,)) if name in line]
    assert found == [line for line in LINES if line.startswith(f'| [{name}]')] and len(found) == 1


def test_numbers_of_the_paper():
    assert model_table.paper(ROOT, 'mmdet')['htc_swinv2_g'] == '61.7 / 53.3'
    assert model_table.paper(ROOT, 'mmseg')['upernet_swinv2_l'] == '55.9 (multi-scale)'


@pytest.mark.slow
def test_the_table():
    assert model_table.main(['--check']) == 0
