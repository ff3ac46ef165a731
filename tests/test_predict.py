"""``tools/predict.py``: a detector, a segmenter and a classifier, pictures and JSON, broken images, bad input."""
import json
import re
import shutil

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from PIL import Image

import predict
from helpers.configs import CONFIGS, build, load

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg, pytest.mark.mmpretrain]

MINI = dict(mmdet='mmdet/htc_swinv2_mini.py', mmseg='mmseg/upernet_swinv2_mini.py',
            mmpretrain='mmpretrain/swinv2_mini.py')
SHAPE = (60, 80)


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """Random weights of each mini model."""
    folder = tmp_path_factory.mktemp('checkpoints')
    for host, name in MINI.items():
        cfg = load(name)
        with DefaultScope.overwrite_default_scope(host):
            from mmengine.registry import MODELS
            model = MODELS.build(cfg.model)
        torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=tuple('abcdefghij')))),
                   folder / f'{host}.pth')
    return folder


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for name in ('a.jpg', 'deep/b.png', 'deep/a.jpg'):
        path = tmp_path / 'images' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(*SHAPE, 3), dtype=np.uint8)).save(path)
    return tmp_path / 'images'


def run(host, checkpoints, images, out, *options):
    return predict.main([str(CONFIGS / MINI[host]), str(checkpoints / f'{host}.pth'), *map(str, images), '--out',
                         str(out), '--device', 'cpu', *options])


@pytest.mark.parametrize('host, tta', [
    ('mmdet', False), pytest.param('mmdet', True, marks=pytest.mark.slow), ('mmseg', False), ('mmseg', True),
    ('mmpretrain', False)])
def test_pictures_and_json(host, tta, checkpoints, images, tmp_path, capsys):
    options = ['--score', '0'] + (['--tta'] if tta else [])
    names = ['a.jpg', 'deep/b.png', 'deep/a.jpg'] if host == 'mmpretrain' else ['a.jpg', 'deep/b.png']
    assert run(host, checkpoints, [images / name for name in names], tmp_path / 'out', *options) == 0
    assert f'{len(names)} of {len(names)} images' in capsys.readouterr().out
    for name in names:
        assert Image.open(tmp_path / 'out' / f'{name}.png').size[::-1] >= SHAPE
        found = json.loads((tmp_path / 'out' / f'{name}.json').read_text())
        assert found['image'] == str(images / name)
        if host == 'mmdet':
            item = found['objects'][0]
            assert item['category'] in 'abcd' and len(item['bbox']) == 4 and 0 <= item['score'] <= 1
            assert item['segmentation']['size'] == list(SHAPE)
        elif host == 'mmseg':
            assert sum(item['share'] for item in found['areas']) == pytest.approx(1)
        else:
            assert len(found['classes']) == predict.TOP and found['classes'][0]['category'] in 'abcdefghij'


@pytest.mark.parametrize('host', ['mmdet', 'mmseg'])
def test_a_photograph_is_drawn_as_its_exif_turns_it(host, checkpoints, images, tmp_path, monkeypatch):
    drawn, write = [], predict.Predictor.write

    def watch(self, *args, **kwargs):
        self.visualizer.add_datasample = lambda name, image, *a, **k: drawn.append(image.shape[:2])
        write(self, *args, **kwargs)

    monkeypatch.setattr(predict.Predictor, 'write', watch)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(images / 'a.jpg').save(images / 'a.jpg', exif=exif)
    assert run(host, checkpoints, [images / 'a.jpg'], tmp_path / 'out', '--score', '0') == 0
    assert drawn == [SHAPE[::-1]]
    if host == 'mmdet':
        found = json.loads((tmp_path / 'out' / 'a.jpg.json').read_text())
        assert found['objects'][0]['segmentation']['size'] == list(SHAPE[::-1])


def test_scores_are_those_of_the_model(checkpoints, images, tmp_path):
    """As the classifier gives them by hand."""
    assert run('mmpretrain', checkpoints, [images / 'a.jpg'], tmp_path / 'out') == 0
    found = json.loads((tmp_path / 'out' / 'a.jpg.json').read_text())['classes']
    cfg = load(MINI['mmpretrain'])
    model = build(cfg).to_empty(device='cpu').eval()
    model.load_state_dict(torch.load(checkpoints / 'mmpretrain.pth')['state_dict'])
    from mmengine.dataset import Compose, pseudo_collate
    with DefaultScope.overwrite_default_scope('mmpretrain'), torch.no_grad():
        from mmengine.registry import TRANSFORMS
        pipeline = Compose([TRANSFORMS.build(step) for step in cfg.test_dataloader.dataset.pipeline])
        data = pseudo_collate([pipeline(dict(img_path=str(images / 'a.jpg')))])
        model.data_preprocessor.mean, model.data_preprocessor.std = (
            torch.tensor(cfg.model.data_preprocessor[key]).view(-1, 1, 1) for key in ('mean', 'std'))
        score = model.test_step(data)[0].pred_score
    best = score.argmax()
    assert found[0]['category'] == 'abcdefghij'[best] and found[0]['score'] == pytest.approx(score[best].item())


def test_a_broken_image_is_named_and_skipped(checkpoints, images, tmp_path, capsys):
    (images / 'broken.jpg').write_bytes((images / 'a.jpg').read_bytes()[:40])
    assert run('mmpretrain', checkpoints, [images], tmp_path / 'out') == 1
    captured = capsys.readouterr()
    assert '3 of 4 images' in captured.out and f'skipped {images / "broken.jpg"}: ' in captured.err
    assert not list((tmp_path / 'out').glob('broken*'))


def test_files_folders_and_patterns(images):
    found = predict.find_images([str(images / '*.jpg'), str(images / 'deep'), str(images / 'a.jpg')])
    assert found == [images / 'a.jpg', images / 'deep' / 'a.jpg', images / 'deep' / 'b.png']
    assert [str(name) for name in predict.result_names(found)] == ['a.jpg', 'deep/a.jpg', 'deep/b.png']
    assert [str(name) for name in predict.result_names(found[:1])] == ['a.jpg']


@pytest.mark.parametrize('change, message', [
    (dict(images=['none/*.jpg']), "IMAGES must name files, folders with images or patterns, got 'none/"),
    (dict(checkpoint='none.pth'), 'none.pth'), (dict(config='none.py'), 'none.py'),
    (dict(options=['--cfg-options', 'model.head.num_classes=7']), 'head.fc.weight must have 7 rows'),
    (dict(host='mmseg', options=['--cfg-options', 'model.decode_head.num_classes=7']),
     'CHECKPOINT must hold each weight of the model, got .*; of another shape: 2 .decode_head.conv_seg.weight'),
    (dict(host='mmdet', options=['--cfg-options', 'model.backbone.arch.depths=[1,1,3,1]']), 'got one with arch=dict'),
    (dict(config=str(CONFIGS / 'mmaction2/video_swinv2_mini.py')), "got default_scope='mmaction'")])
def test_bad_input_is_one_line(change, message, checkpoints, images, tmp_path, capsys):
    host = change.get('host', 'mmpretrain')
    args = [change.get('config', str(CONFIGS / MINI[host])), change.get('checkpoint', str(checkpoints / f'{host}.pth')),
            *change.get('images', [str(images)]), '--out', str(tmp_path / 'out'), '--device', 'cpu']
    assert predict.main([*args, *change.get('options', [])]) == 2
    err = capsys.readouterr().err
    assert re.search(message, err) and err.startswith('predict: ') and err.count('\n') == 1
    assert not (tmp_path / 'out').exists()


def test_without_augmentation_in_the_config(checkpoints, images, tmp_path, capsys):
    config = tmp_path / 'plain.py'
    text = f"_base_ = '{CONFIGS / MINI['mmpretrain']}'\n"
    config.write_text(text)
    shutil.copy(checkpoints / 'mmpretrain.pth', tmp_path / 'a.pth')
    assert predict.main([str(config), str(tmp_path / 'a.pth'), str(images), '--tta']) == 2
    assert '--tta needs tta_model and tta_pipeline in the config' in capsys.readouterr().err
