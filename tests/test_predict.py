"""``tools/predict.py``: a detector, a segmentor and a classifier, pictures and JSON, broken images, bad input."""
import json
import re
import shutil
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from PIL import Image

import predict
from helpers.configs import CONFIGS, build, load
from mmswinv2.inputs import distinct_colours

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
    names = ['a.jpg', 'deep/b.png', 'deep/a.jpg'][:3 if host == 'mmpretrain' else 1 if tta else 2]
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


def turned():
    """EXIF data of a photograph that is turned by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize('host', ['mmdet', 'mmseg'])
def test_what_is_drawn_is_what_was_read(host, checkpoints, images, tmp_path, monkeypatch):
    drawn, write = {}, predict.Predictor.write

    def watch(self, *args, **kwargs):
        self.visualizer.add_datasample = lambda name, image, *a, **k: drawn.update({Path(name).name: image})
        write(self, *args, **kwargs)

    monkeypatch.setattr(predict.Predictor, 'write', watch)
    Image.open(images / 'a.jpg').save(images / 'a.jpg', exif=turned())
    Image.fromarray(np.full(SHAPE, 43 * 257, np.uint16)).save(images / 'grey.png')
    assert run(host, checkpoints, [images / 'a.jpg', images / 'grey.png'], tmp_path / 'out', '--score', '0') == 0
    assert drawn['a.jpg'].shape[:2] == SHAPE[::-1] and (drawn['grey.png'] == 43).all()
    np.testing.assert_array_equal(drawn['a.jpg'], mmcv.imread(images / 'a.jpg')[..., ::-1])
    if host == 'mmdet':
        found = json.loads((tmp_path / 'out' / 'a.jpg.json').read_text())
        assert found['objects'][0]['segmentation']['size'] == list(SHAPE[::-1])


@pytest.mark.parametrize('suffix, mode', [('tif', 'RGB'), ('jpg', 'CMYK'), ('png', 'L'), ('png', 'P'), ('png', 'RGBA'),
                                          ('png', 'LA'), ('png', '1'), ('webp', 'RGB')])
def test_pictures_of_all_kinds(suffix, mode, images, tmp_path):
    """After a step that writes into the image."""
    path = tmp_path / f'a.{suffix}'
    Image.open(images / 'a.jpg').convert(mode).save(path, exif=turned())
    pipeline = predict.build_pipeline([dict(type='mmcv.LoadImageFromFile'), dict(type='mmcv.Pad', size=(90, 90))])
    pipeline.transforms.append(lambda data: data['img'].fill(0) or data)
    _, image = predict.read_image(path, pipeline, 'mmdet')
    np.testing.assert_array_equal(predict.to_picture(image), mmcv.imread(path)[..., ::-1])


@pytest.mark.parametrize('image, wanted', [
    (np.full((4, 5), 43, np.uint8), [43] * 3), (np.full((4, 5, 1), 43., np.float32), [43] * 3),
    (np.full((4, 5, 2), (1, 2), np.uint8), [1] * 3), (np.full((4, 5, 3), (1, 2, 3), np.float32), [3, 2, 1]),
    (np.full((4, 5, 4), (1, 2, 3, 4), np.uint8), [3, 2, 1]),
    (np.full((4, 5, 3), (0, 2550, 5100), np.uint16), [255, 127, 0])])
def test_a_picture_of_any_image(image, wanted):
    """As loading steps leave it: grey, floating-point, of other channels, of more than 8 bits."""
    picture = predict.to_picture(image)
    assert picture.dtype == np.uint8 and picture.shape == (4, 5, 3) and (picture == wanted).all()


def test_images_behind_links_and_links_to_nothing(checkpoints, images, tmp_path, capsys):
    """Two of five images are in the folder itself."""
    folder = tmp_path / 'set'
    folder.mkdir()
    for name in 'one.jpg', 'two.jpg':
        shutil.copy(images / 'a.jpg', folder / name)
    for name, target in (('more', images), ('around', folder), ('lost', tmp_path / 'none'), ('l.jpg', tmp_path / 'no')):
        (folder / name).symlink_to(target)
    assert run('mmpretrain', checkpoints, [folder], tmp_path / 'out') == 1
    captured = capsys.readouterr()
    assert '5 of 7 images' in captured.out and captured.err.count('skipped') == 2
    assert all(f'skipped {folder / name}: ' in captured.err for name in ('lost', 'l.jpg'))
    assert sorted(path.relative_to(tmp_path / 'out').as_posix() for path in (tmp_path / 'out').rglob('*.json')) == [
        'more/a.jpg.json', 'more/deep/a.jpg.json', 'more/deep/b.png.json', 'one.jpg.json', 'two.jpg.json']


@pytest.mark.parametrize('part', ['predict', 'write'])
def test_an_image_that_fails_later_is_named_and_the_rest_goes_on(part, checkpoints, images, tmp_path, capsys,
                                                                monkeypatch):
    step, calls = getattr(predict.Predictor, part), []

    def fail_second(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise AssertionError('too small')
        return step(self, *args, **kwargs)

    monkeypatch.setattr(predict.Predictor, part, fail_second)
    assert run('mmpretrain', checkpoints, [images], tmp_path / 'out') == 1
    captured = capsys.readouterr()
    assert '2 of 3 images' in captured.out
    assert captured.err == f'predict: skipped {images / "deep/a.jpg"}: AssertionError: too small\n'
    assert len(list((tmp_path / 'out').rglob('*.json'))) == len(list((tmp_path / 'out').rglob('*.png'))) == 2


@pytest.mark.parametrize('container', ['state_dict', 'model', None])
def test_weights_of_a_wrapped_model(container, checkpoints):
    """As DistributedDataParallel names them, and in any container that ``init_cfg`` finds weights in."""
    state = torch.load(checkpoints / 'mmseg.pth')['state_dict']
    wrapped = {f'module.{name}': value for name, value in state.items()}
    model = build(load(MINI['mmseg'])).to_empty(device='cpu')
    predict.load(model, {container: wrapped} if container else wrapped, 'a.pth')
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


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


def test_label_images_of_a_segmentor(checkpoints, images, tmp_path):
    """As masks to train on: of the image's size and name, the class in each pixel."""
    names = ['a.jpg', 'deep/b.png']
    assert run('mmseg', checkpoints, [images / name for name in names], tmp_path / 'out', '--masks',
               str(tmp_path / 'labels')) == 0
    for name in names:
        labels = Image.open((tmp_path / 'labels' / name).with_suffix('.png'))
        pixels = np.asarray(labels)
        assert labels.mode == 'P' and pixels.shape == SHAPE
        areas = json.loads((tmp_path / 'out' / f'{name}.json').read_text())['areas']
        shares = {item['category']: pytest.approx(item['share']) for item in areas}
        assert shares == {dict(enumerate('abcdefghij')).get(n, n): (pixels == n).mean() for n in np.unique(pixels)}
        assert labels.getpalette()[:30] == list(sum(distinct_colours(10), ()))


@pytest.mark.parametrize('host, names, message', [
    ('mmdet', ['a.jpg'], '--masks needs a segmentor with 256 classes at most, got 10 of mmdet'),
    ('mmseg', ['a.jpg', 'a.png'], '--masks needs images whose names differ in more than the suffix, got a.jpg, a.png')])
def test_where_label_images_cannot_be_written(host, names, message, checkpoints, images, tmp_path, capsys):
    shutil.copy(images / 'deep' / 'b.png', images / 'a.png')
    assert run(host, checkpoints, [images / name for name in names], tmp_path / 'out', '--masks', str(tmp_path)) == 2
    assert message in capsys.readouterr().err and not (tmp_path / 'out').exists()
