"""The small data set for classification, and tests of its models at larger windows, through mim as a user types it."""
import functools
import gzip
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

import demo_cls
import demo_simmim
import make_mini_imagenet
import window_transfer
from helpers import folders
from helpers.configs import CONFIGS
from helpers.runs import run
from make_mini_imagenet import CLOTHES, PHOTOGRAPHS

pytestmark = [pytest.mark.mmpretrain, pytest.mark.mim]

MINI = CONFIGS / 'mmpretrain' / 'swinv2_mini.py'


make = functools.partial(folders.make, make_mini_imagenet, train=20, val=10)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('mini') / 'photographs'
    result = make(out, '--photographs')
    assert result.returncode == 0, result.stderr
    return out


def fashion(folder, pack):
    """Files as those of Fashion-MNIST: an image of one grey level each, the label its remainder by ten."""
    folder.mkdir()
    for name, count in (('train', 60), ('t10k', 30)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, 28, 28))
        for kind, header, values in (('images-idx3', 16, images), ('labels-idx1', 8, labels)):
            content = bytes(header) + values.tobytes()
            path = folder / f'{name}-{kind}-ubyte'
            if pack:
                path.with_name(f'{path.name}.gz').write_bytes(gzip.compress(content))
            else:
                path.write_bytes(content)
    return folder


def test_photographs(data, tmp_path):
    folders.check_seeds(make_mini_imagenet, data, tmp_path, '--photographs', train=20, val=10)
    names = sorted(name.partition('.')[0] for name in PHOTOGRAPHS)
    for split, count in (('train', 20), ('val', 10)):
        assert sorted(p.name for p in (data / split).iterdir()) == names
        images = list((data / split).rglob('*.png'))
        assert len(images) == count and all(Image.open(p).size == (32, 32) for p in images)


@pytest.mark.parametrize('pack', [True, False])
def test_fashion_mnist(pack, tmp_path):
    folder = fashion(tmp_path / 'files', pack)
    assert make(tmp_path / 'a', '--fashion-mnist', str(folder)).returncode == 0
    for split, count in (('train', 20), ('val', 10)):
        images = sorted((tmp_path / 'a' / split).rglob('*.png'))
        assert len(images) == count
        for path in images:
            pixels = np.asarray(Image.open(path))
            assert pixels.shape == (32, 32) and not pixels[:2].any() and not pixels[:, -2:].any()
            assert CLOTHES[pixels[16, 16] % 10] == path.parent.name


@pytest.mark.parametrize('options, message', [
    (['--fashion-mnist', 'nowhere'], '--fashion-mnist must be a folder with the four files of Fashion-MNIST'),
    (['--fashion-mnist', 'nowhere', '--photographs'], '--photographs must be given without --fashion-mnist'),
])
def test_other_sources_are_an_error(options, message, tmp_path):
    result = make(tmp_path / 'a', *options)
    assert result.returncode == 2 and message in result.stderr and not (tmp_path / 'a').exists()


def test_more_images_than_there_are(tmp_path):
    folder = fashion(tmp_path / 'files', True)
    result = make(tmp_path / 'a', '--fashion-mnist', str(folder), '--val', '31')
    assert result.returncode == 2 and '--val must be <= 30 for Fashion-MNIST, got 31' in result.stderr


def test_settings_of_the_papers_table():
    """256 px and windows of 8, then 12/384, 16/512, 20/640, 24/768."""
    found = window_transfer.settings(Config.fromfile(CONFIGS / 'mmpretrain/swinv2_t_256-w8.py'), window_transfer.RATIOS)
    assert [(s.window, s.size) for s in found] == [(8, 256), (12, 384), (16, 512), (20, 640), (24, 768)]
    assert found[1].options == [
        'test_dataloader.dataset.pipeline.1.scale=438', 'test_dataloader.dataset.pipeline.2.crop_size=384',
        'model.backbone.window_size=[12,12,12,12]']
    cfg = Config.fromfile(CONFIGS / 'mmpretrain/swinv2_t_256-w8.py')
    from mmengine.config import DictAction
    cfg.merge_from_dict({option.split('=')[0]: DictAction._parse_iterable(option.split('=')[1])
                         for option in found[2].options})
    assert cfg.test_dataloader.dataset.pipeline[2].crop_size == 512 and cfg.model.backbone.window_size == [16] * 4


@pytest.mark.parametrize('name, ratios, message', [
    ('swinv2_mini', ['x'], "--ratios must be numbers such as 3/2, got 'x'"),
    ('swinv2_mini', ['4/3'], '--ratios must make a whole number of pixels of 32, got 4/3'),
    ('swinv2_mini', ['5/4'], '--ratios must make a whole number of tokens of 2, got 5/4'),
    ('swinv2_mini', ['-1'], '--ratios must make a whole number of pixels'),
    ('simmim_swinv2_mini', ['1'], 'each config must be of a classifier'),
])
def test_settings_that_there_are_not(name, ratios, message):
    with pytest.raises(ValueError, match=message):
        window_transfer.settings(Config.fromfile(CONFIGS / 'mmpretrain' / f'{name}.py'), ratios)


def test_models_are_two_files(tmp_path):
    with pytest.raises(ValueError, match='each model must be CONFIG=CHECKPOINT, two files, got'):
        window_transfer.transfer([str(MINI)], ['1'], tmp_path)


def test_table():
    rows = dict(a={'4/32': 80.04, '6/48': 60.}, b={'4/32': 70.})
    assert window_transfer.table(rows) == (
        '| top-1, window/size | 4/32 | 6/48 |\n|---|---|---|\n| a | 80.0 | 60.0 |\n| b | 70.0 |  |\n')


@pytest.mark.slow
@pytest.mark.parametrize('ratios', [['3/2'], ['1', '3/2', '2']])
def test_a_user_trains_and_tests_at_larger_windows(ratios, data, tmp_path, monkeypatch):
    monkeypatch.setenv('MMSWINV2_MINI_IMAGENET', f'{data}/')
    monkeypatch.delenv('PYTHONPATH', raising=False)
    env = dict(os.environ, PATH=f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}')
    code, output = run(['mim', 'train', 'mmpretrain', str(MINI), '--work-dir', str(tmp_path / 'work'), '--cfg-options',
                        'train_cfg.max_iters=2', 'default_hooks.checkpoint.interval=2', 'train_dataloader.batch_size=4',
                        'param_scheduler.0.end=1', 'param_scheduler.1.begin=1', 'param_scheduler.1.end=2'], env)
    assert code == 0, output[-3000:]
    checkpoint = (tmp_path / 'work' / 'last_checkpoint').read_text()
    rows = window_transfer.transfer([f'{MINI}={checkpoint}'], ratios, tmp_path / 'out', jobs=2)
    assert list(rows) == ['swinv2_mini'] and list(rows['swinv2_mini']) == [
        {'1': '4/32', '3/2': '6/48', '2': '8/64'}[ratio] for ratio in ratios]
    assert json.loads((tmp_path / 'out' / 'rows.json').read_text()) == rows
    assert (tmp_path / 'out' / 'curves.png').stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.parametrize('tool, options', [(demo_cls, []), (demo_cls, ['--photographs']), (demo_simmim, [])])
def test_demos_reach_their_bounds(tool, options, tmp_path):
    code, output = run([sys.executable, tool.__file__, '--work-dir', str(tmp_path / 'work'), *options],
                       dict(os.environ), timeout=2200)
    assert code == 0, output[-4000:]
    pictures = list((tmp_path / 'work').rglob('*.png'))
    assert any(p.stat().st_size > 10_000 for p in pictures)
