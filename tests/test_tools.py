"""The set-up's messages and fingerprint, and the picture of the demo."""
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

import demo
import setup_env


def test_missing_compiler_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv('CXX', 'no-such-compiler -O2')
    with pytest.raises(setup_env.SetupError, match="compiler is needed .*'no-such-compiler -O2'.*build-essential"):
        setup_env.check_build_tools(tmp_path)


def test_missing_ninja_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv('CXX', 'sh')
    with pytest.raises(setup_env.SetupError, match='ninja is needed .*ninja-build'):
        setup_env.check_build_tools(tmp_path)


def test_missing_headers_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv('CXX', 'sh')
    monkeypatch.setattr(setup_env.sysconfig, 'get_path', lambda name: str(tmp_path))
    with pytest.raises(setup_env.SetupError, match="Python.h was not found.*python3-dev"):
        setup_env.check_build_tools(tmp_path)


def test_another_python_is_looked_for_and_named(monkeypatch):
    monkeypatch.setattr(setup_env.shutil, 'which', lambda name: None)
    with pytest.raises(setup_env.SetupError, match='python3.11 is needed'):
        setup_env.run_with_right_python()


def test_nothing_is_done_when_nothing_changed(monkeypatch, tmp_path):
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'python').touch()
    (tmp_path / '.setup-stamp').write_text(setup_env.fingerprint(tmp_path))
    monkeypatch.setattr(setup_env, 'say', lambda text: pytest.fail(text))
    setup_env.set_up(tmp_path)


def test_a_failed_pip_shows_the_end_of_its_log(monkeypatch, tmp_path):
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\necho the reason; exit 3\n')
    python.chmod(0o755)
    with pytest.raises(setup_env.SetupError, match=r'(?s)pip install x failed.*the reason'):
        setup_env.pip(python, tmp_path, 'install', 'x')


def test_progress_of_a_build_is_read_from_the_log(tmp_path):
    (tmp_path / 'log').write_bytes(b'[1/9] old\n[3/77] g++\n[4/77] g++\n')
    assert setup_env.build_progress(tmp_path / 'log', 0) == '4 of 77 files compiled, '
    assert setup_env.build_progress(tmp_path / 'log', 30) == ''


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


def test_configs_are_found_by_name(capsys, monkeypatch):
    from mmswinv2 import __main__ as cli
    monkeypatch.setattr('sys.argv', ['mmswinv2', 'htc_swinv2_g'])
    assert cli.main() == 0
    assert Path(capsys.readouterr().out.strip()).parts[-3:] == ('configs', 'mmdet', 'htc_swinv2_g.py')
    monkeypatch.setattr('sys.argv', ['mmswinv2', 'htc_swinv2_x'])
    assert cli.main() == 2
    err = capsys.readouterr().err
    assert err.startswith('name must be one of ') and ' htc_swinv2_b, ' in err and ' upernet_swinv2_l, ' in err


def test_a_wheel_carries_the_configs(tmp_path):
    """Without its dependencies, so that nothing is fetched."""
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', tmp_path,
                    setup_env.ROOT], check=True, capture_output=True)
    wheel, = tmp_path.glob('*.whl')
    assert wheel.name.startswith('mmswinv2_plugin-')  # sorts after mmswinv2/ in the wheel's record
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {'mmswinv2/.mim/configs/mmdet/htc_swinv2_g.py', 'mmswinv2/core/windows.py',
            'mmswinv2/.mim/configs/mmdet/_base_/default_runtime.py'} <= names
    assert not [n for n in names if n.startswith(('tests', 'tools', 'benchmarks'))]
