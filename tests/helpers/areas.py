"""Which packages a test module needs, as its ``pytestmark`` says."""
import ast
from importlib.util import find_spec

import pytest

# torch alone, or packages by their import names
AREAS = ('core', 'mmengine', 'mmdet', 'mmseg', 'mmpretrain', 'mmaction', 'mim')


def areas(path):
    """The areas of a test module, read from its ``pytestmark``: the module itself may not be importable here.

    Raises:
        pytest.UsageError: if it has none.
    """
    marks = [node.value for node in ast.parse(path.read_text()).body
             if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == 'pytestmark']
    found = [node.attr for mark in marks for node in ast.walk(mark)
             if isinstance(node, ast.Attribute) and node.attr in AREAS]
    if not found:
        raise pytest.UsageError(f'pytestmark of {path.name} must name an area, one of {", ".join(AREAS)}, got none')
    return found


def missing(path):
    """The packages that a test module needs and that are not installed."""
    return [area for area in areas(path) if area != 'core' and find_spec(area) is None]
