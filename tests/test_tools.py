"""The picture of the demo, the finder of configs and tools, and what a wheel carries."""
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

import demo
from helpers.wheels import Site, build_wheel

pytestmark = pytest.mark.mmdet

ROOT = Path(__file__).parents[1]


def test_the_picture_shows_truth_beside_predictions(tmp_path):
    import make_mini_coco
    data = tmp_path / 'data'
    data.mkdir()
    make_mini_coco.write_split(data, 'val', 2, (0, 1))
    coco = COCO(str(data / 'annotations' / 'instances_val.json'))
    results = [dict(image_id=a['image_id'], category_id=a['category_id'], score=.9,
                    segmentation=dict(r, counts=r['counts'].decode()))
               for a in coco.anns.values() for r in [rle.encode(coco.annToMask(a).copy(order='F'))]]
    (tmp_path / 'results.segm.json').write_text(json.dumps(results))
    demo.draw(data, tmp_path / 'results', tmp_path / 'a.png', images=2)
    picture = Image.open(tmp_path / 'a.png')
    assert picture.width > 2 * 2 * 2 * make_mini_coco.WIDTHS[0] - 1
    assert len(picture.getcolors(10**7)) > 1000


def test_a_failing_command_says_where_its_output_is(tmp_path, capfd):
    with pytest.raises(demo.subprocess.CalledProcessError):
        demo.run(['sh', '-c', 'echo broken; exit 3'], tmp_path / 'a.log')
    assert 'broken' in capfd.readouterr().err and (tmp_path / 'a.log').read_text() == 'broken\n'


def test_the_reason_ends_what_a_failing_mim_wrote(tmp_path, capfd):
    """And not the traceback of mim, which says the exit code of the script that it ran."""
    (tmp_path / 'mim').write_text('import subprocess as s, sys\n'
                                  's.check_call([sys.executable, "-c", "raise ValueError(\'the reason\')"])')
    with pytest.raises(demo.subprocess.CalledProcessError):
        demo.run([sys.executable, str(tmp_path / 'mim')], tmp_path / 'a.log')
    for text in capfd.readouterr().err, (tmp_path / 'a.log').read_text():
        assert text.endswith('\nValueError: the reason\n') and 'CalledProcessError' not in text


def ask(monkeypatch, *args):
    """Runs ``python -m mmswinv2``; returns the exit code."""
    from mmswinv2 import __main__ as cli
    monkeypatch.setattr('sys.argv', ['mmswinv2', *args])
    return cli.main()


@pytest.mark.parametrize('name, parts', [
    ('htc_swinv2_g', ('configs', 'mmdet', 'htc_swinv2_g.py')),
    ('upernet_swinv2_l.py', ('configs', 'mmseg', 'upernet_swinv2_l.py')),
    ('predict', ('tools', 'predict.py')),
])
def test_configs_and_tools_are_found_by_name(name, parts, capsys, monkeypatch):
    assert ask(monkeypatch, name) == 0
    found = Path(capsys.readouterr().out.strip())
    assert found.is_file() and found.parts[-len(parts):] == parts


@pytest.mark.parametrize('name, near', [('htc_swinv2_x', 'htc_swinv2_l'), ('predikt', 'predict')])
def test_an_unknown_name_is_an_error_with_the_nearest(name, near, capsys, monkeypatch):
    assert ask(monkeypatch, name) == 2
    err = capsys.readouterr().err
    assert re.match(rf'python -m mmswinv2: name must be one of the \d+ that .* lists, got {name!r}; near it: ', err)
    assert near in err and err.count('\n') == 1


def test_names_are_listed_by_host(capsys, monkeypatch):
    assert ask(monkeypatch) == 0
    out = capsys.readouterr().out
    heads = [line for line in out.splitlines() if not line.startswith(' ')]
    assert heads == [*(f'configs of {host}:' for host in ('mmaction2', 'mmdet', 'mmpretrain', 'mmseg')), 'tools:']
    names = [line.strip() for line in out.splitlines() if line.startswith(' ')]
    files = [*ROOT.glob('configs/mm*/*.py'), *ROOT.glob('tools/*.py')]
    # imported by tools, and no tools
    helpers = {'annotations', 'trained_backbone'}
    assert {name.rpartition('/')[2] for name in names} == {path.stem for path in files} - helpers
    assert len(set(names)) == len(files) - len(helpers)
    assert ask(monkeypatch, 'mmseg/mask2former_swinv2_b') == 0
    assert capsys.readouterr().out.strip().endswith('configs/mmseg/mask2former_swinv2_b.py')


def test_an_installation_without_configs_is_an_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('mmswinv2.__main__.PLACES', (tmp_path / 'a', tmp_path / 'b'))
    assert ask(monkeypatch, 'htc_swinv2_g') == 2
    assert f'configs must be in {tmp_path / "a" / "configs"} or ' in capsys.readouterr().err


def test_what_is_here(capsys, monkeypatch):
    assert ask(monkeypatch, '--info') == 0
    out = capsys.readouterr().out
    assert re.search(r'^mmdet +\d.*, mim train mmdet', out, re.M) and re.search(r'^mmengine +\d', out, re.M)
    if not torch.cuda.is_available():
        assert re.search(r'256 px, window 8 +eager$', out, re.M) and re.search(r'1536 px, window 32 +cells$', out, re.M)
        assert "backend 'torch' is not supported here: it is for CUDA devices, not for cpu" in out


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp('wheel'))


def test_a_wheel_carries_configs_and_tools(wheel):
    assert wheel.name.startswith('mmswinv2_plugin-')  # sorts after mmswinv2/ in the wheel's record
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {'mmswinv2/.mim/configs/mmdet/htc_swinv2_g.py', 'mmswinv2/core/attention/cells.py', 'mmswinv2/py.typed',
            'mmswinv2/.mim/configs/mmdet/_base_/default_runtime.py', 'mmswinv2/.mim/model-index.yml'} <= names
    assert not [n for n in names if n.startswith(('tests', 'tools', 'demos', 'benchmarks'))]
    tools = {Path(n).stem for n in names if n.startswith('mmswinv2/.mim/tools/')}
    assert {path.stem for path in (ROOT / 'tools').glob('*.py')} - tools == {
        'make_metafiles', 'setup_env'}


@pytest.mark.slow
def test_a_source_distribution_gives_the_same_wheel(wheel, tmp_path):
    code = f'from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})'
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True, capture_output=True, timeout=120)
    source, = tmp_path.glob('*.tar.gz')
    other = build_wheel(tmp_path, source)
    contents = [{n: archive.read(n) for n in archive.namelist() if not n.endswith('/RECORD')}
                for archive in (zipfile.ZipFile(wheel), zipfile.ZipFile(other))]
    assert contents[0] == contents[1]


@pytest.mark.slow
def test_the_tools_of_a_wheel_run_from_another_folder(wheel, tmp_path):
    site = Site(wheel, tmp_path / 'site')
    tools = site.python('-m', 'mmswinv2').stdout.partition('tools:')[2].split()
    assert {'convert_checkpoint', 'plan_memory', 'plot_attention', 'predict'} <= set(tools)
    helps = {name: site.python(site.mim / 'tools' / f'{name}.py', '--help') for name in tools}
    assert not [(name, result.stderr) for name, result in helps.items()
                if result.returncode or not result.stdout.startswith(f'usage: {name}.py')]
    tool, config = (site.python('-m', 'mmswinv2', name).stdout.strip() for name in ('plan_memory', 'htc_swinv2_l'))
    plan = site.python(tool, config)
    assert plan.returncode == 0 and 'PEAK' in plan.stdout, plan.stderr
