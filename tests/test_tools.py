"""The picture of the demo, the finder of configs, and what a wheel carries."""
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


def test_configs_are_found_by_name(capsys, monkeypatch):
    from mmswinv2 import __main__ as cli
    monkeypatch.setattr('sys.argv', ['mmswinv2', 'htc_swinv2_g'])
    assert cli.main() == 0
    assert Path(capsys.readouterr().out.strip()).parts[-3:] == ('configs', 'mmdet', 'htc_swinv2_g.py')
    monkeypatch.setattr('sys.argv', ['mmswinv2', 'htc_swinv2_x'])
    assert cli.main() == 2
    err = capsys.readouterr().err
    assert err.startswith('name must be one of ') and ' htc_swinv2_b, ' in err and ' upernet_swinv2_l, ' in err


def test_what_is_here(capsys, monkeypatch):
    from mmswinv2 import __main__ as cli
    monkeypatch.setattr('sys.argv', ['mmswinv2', '--info'])
    assert cli.main() == 0
    out = capsys.readouterr().out
    assert re.search(r'^mmdet +\d.*, mim train mmdet', out, re.M) and re.search(r'^mmengine +\d', out, re.M)
    if not torch.cuda.is_available():
        assert re.search(r'256 px, window 8 +eager$', out, re.M) and re.search(r'1536 px, window 32 +cells$', out, re.M)
        assert "backend 'torch' is not taken: it is for CUDA devices, not for cpu" in out


def test_a_wheel_carries_the_configs(tmp_path):
    """Without its dependencies, so that nothing is fetched."""
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', tmp_path,
                    ROOT], check=True, capture_output=True)
    wheel, = tmp_path.glob('*.whl')
    assert wheel.name.startswith('mmswinv2_plugin-')  # sorts after mmswinv2/ in the wheel's record
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {'mmswinv2/.mim/configs/mmdet/htc_swinv2_g.py', 'mmswinv2/core/attention/cells.py',
            'mmswinv2/.mim/configs/mmdet/_base_/default_runtime.py'} <= names
    assert not [n for n in names if n.startswith(('tests', 'tools', 'benchmarks'))]
