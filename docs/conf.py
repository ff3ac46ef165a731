"""Sphinx: the pages of docs/, the READMEs and the API, with the root of the repository as source (``make docs``).

Links between pages are those that work in a checkout, too. A link or reference that leads nowhere is an error.
"""
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
project = 'mmswinv2'
release = version = re.search(r"'(.+)'", (ROOT / 'mmswinv2' / 'version.py').read_text()).group(1)
root_doc = 'docs/index'
include_patterns = ['*.md', 'docs/*.md', 'docs/images/*', 'docs/site/*', 'configs/README.md', 'configs/*/README.md',
                    'benchmarks/results/*.md']
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
suppress_warnings = ['ref.python']  # a class of core and its registered subclass have one name
html_theme = 'furo'
html_title = f'mmswinv2 {version}'
html_extra_path = ['site']  # the first page is docs/index.html
html_show_copyright = False

myst_heading_anchors = 3
myst_enable_extensions = ['dollarmath']

autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_typehints_format = 'short'
napoleon_custom_sections = ['Source']
# `*map`, the axes of a map in a shape, is no emphasis
AXES = re.compile(r'\*(?=(map|counts|sizes|windows?|kinds)\b)')


def setup(app):
    """Escapes stars of shapes."""
    def escape(app, what, name, obj, options, lines):
        lines[:] = [AXES.sub(r'\\*', line) for line in lines]
    app.connect('autodoc-process-docstring', escape, priority=400)  # before napoleon


# of other projects, whose references would need a network
nitpick_ignore_regex = [('py:.*', name) for name in (
    r'(torch|nn|mmengine|mmcv|mmdet|mmseg|mmpretrain|mmaction|np|numpy)\b.*', 'Tensor', 'device', 'dtype',
    r'(collections|pathlib|os|typing)\b.*')]
