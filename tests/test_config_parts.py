"""What configs share is stated once: sizes, channels, heads, pipelines, metafiles; other classes are one variable."""
import json
import re

import numpy as np
import pytest
import yaml
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

import make_metafiles
from helpers.configs import CONFIGS, LEAVES, LOST, build, read
from mmswinv2.core.arch import get_arch

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg]

SIZES = sorted((CONFIGS / '_base_' / 'backbones').glob('*.py'))


def name(path):
    return path.relative_to(CONFIGS).as_posix()


@pytest.mark.parametrize('path', SIZES, ids=name)
def test_channels_of_a_size_are_those_of_its_architecture(path):
    cfg = Config.fromfile(path)
    assert cfg.channels == list(get_arch(cfg.swinv2.arch).dims)


@pytest.mark.parametrize('leaf', LEAVES)
def test_every_part_has_the_channels_of_the_backbone(leaf):
    model, host = read(leaf).model, leaf.partition('/')[0]
    channels = list(get_arch(model.backbone.arch).dims)
    if host == 'mmpretrain':
        assert (model.head if 'in_channels' in model.head else model.neck).in_channels == channels[-1]
    elif host == 'mmaction2':
        assert model.cls_head.in_channels == channels[-1]
    elif 'decode_head' in model:
        assert model.decode_head.in_channels == channels
        assert model.get('auxiliary_head', dict(in_channels=channels[2]))['in_channels'] == channels[2]
    else:
        assert (model.neck if 'neck' in model else model.panoptic_head).in_channels == channels


def example(host, folder):
    """The config of the host's README for other classes."""
    text, = re.findall(r'\*\*Other classes\*\*.*?```python\n(.+?)```', (CONFIGS / host / 'README.md').read_text(), re.S)
    path = folder / 'mine.py'
    path.write_text(text.replace("'./", f"'{CONFIGS / host}/"))
    return path


def test_other_classes_of_a_detector_are_one_variable(tmp_path, monkeypatch):
    cfg = Config.fromfile(example('mmdet', tmp_path))
    model = build(cfg)
    heads = [*model.roi_head.bbox_head, *model.roi_head.mask_head]
    assert len(heads) == 6 and {head.num_classes for head in heads} == {2}
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()
    data = tmp_path / 'data/mine'
    for part in 'train', 'val':
        (data / part).mkdir(parents=True)
        Image.fromarray(np.zeros((64, 80, 3), np.uint8)).save(data / part / 'a.jpg')
        (data / f'{part}.json').write_text(json.dumps(dict(
            images=[dict(id=1, file_name='a.jpg', height=64, width=80)],
            categories=[dict(id=5, name='cat'), dict(id=3, name='dog')],
            annotations=[dict(id=1, image_id=1, category_id=3, bbox=[8, 8, 40, 40], area=1600, iscrowd=0,
                              segmentation=[[8, 8, 48, 8, 48, 48, 8, 48]])])))
    monkeypatch.chdir(tmp_path)
    from mmdet.registry import DATASETS, METRICS
    with DefaultScope.overwrite_default_scope('mmdet'):
        for loader in cfg.train_dataloader, cfg.test_dataloader:
            read = DATASETS.build(loader.dataset)
            assert len(read) == 1 and read.metainfo['classes'] == ('cat', 'dog')
            assert read.get_data_info(0)['instances'][0]['bbox_label'] == 1
        METRICS.build(cfg.test_evaluator)


def test_other_classes_of_a_segmentor_are_one_variable(tmp_path, monkeypatch):
    cfg = Config.fromfile(example('mmseg', tmp_path))
    model = build(cfg)
    assert model.num_classes == model.auxiliary_head.num_classes == 3
    assert model.decode_head.conv_seg.out_channels == model.auxiliary_head.conv_seg.out_channels == 3
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()
    for part in 'train', 'val':
        for file, pixels in (f'images/{part}/a.jpg', np.zeros((64, 80, 3), np.uint8)), (
                f'masks/{part}/a.png', np.repeat(np.uint8([[1], [2]]), 32, 0).repeat(80, 1)):
            path = tmp_path / 'data/mine' / file
            path.parent.mkdir(parents=True)
            Image.fromarray(pixels).save(path)
    monkeypatch.chdir(tmp_path)
    from mmseg.registry import DATASETS
    with DefaultScope.overwrite_default_scope('mmseg'):
        tta = dict(cfg.test_dataloader.dataset, pipeline=cfg.tta_pipeline)
        for config in cfg.train_dataloader.dataset, cfg.test_dataloader.dataset, tta:
            samples = DATASETS.build(config)[0]['data_samples']
            for sample in samples if isinstance(samples, list) else [samples]:
                assert set(sample.gt_sem_seg.data.unique().tolist()) <= {1, 2, 255}
        Image.fromarray(np.full((64, 80), 3, np.uint8)).save(tmp_path / 'data/mine/masks/val/a.png')
        with pytest.raises(ValueError, match='must be 0 to 2 or'):
            DATASETS.build(cfg.test_dataloader.dataset)[0]


@pytest.mark.skipif(bool(LOST), reason='the fork of MMEngine does not find mmseg::')
def test_metafiles_are_what_the_configs_say(capsys, monkeypatch):
    monkeypatch.setattr(make_metafiles.Config, 'fromfile', lambda path: read(name(path)))  # which are read already
    assert make_metafiles.main(['--check']) == 0, capsys.readouterr().err


@pytest.fixture
def copy(tmp_path):
    """A folder with one config of mmdet and its metafiles."""
    for host in make_metafiles.HOSTS:
        (tmp_path / 'configs' / host).mkdir(parents=True)
    (tmp_path / 'configs/mmdet/a_mini.py').write_text('')
    (tmp_path / 'configs/mmdet/a.py').write_text(
        "train_dataloader = dict(dataset=dict(type='Objects365V2Dataset'))")
    assert make_metafiles.main([], tmp_path) == 0
    return tmp_path


def test_metafiles_are_written_from_the_configs(copy, capsys):
    read = yaml.safe_load((copy / 'configs/mmdet/metafile.yml').read_text())
    assert [(m['Name'], m['Config'], m['Metadata']) for m in read['Models']] == [
        ('a', 'configs/mmdet/a.py', {'Training Data': 'Objects365 v2'})]
    assert yaml.safe_load((copy / 'model-index.yml').read_text())['Import'] == [
        'configs/mmdet/metafile.yml', 'configs/mmseg/metafile.yml', 'configs/mmpretrain/metafile.yml',
        'configs/mmaction2/metafile.yml']
    capsys.readouterr()
    assert make_metafiles.main(['--check'], copy) == 0 and make_metafiles.main([], copy) == 0
    assert capsys.readouterr().out == ''


def test_stale_metafiles_are_found_and_not_written(copy, capsys):
    (copy / 'configs/mmdet/b.py').write_text("train_dataloader = dict(dataset=dict(type='CocoDataset'))")
    before = (copy / 'configs/mmdet/metafile.yml').read_text()
    assert make_metafiles.main(['--check'], copy) == 1
    err = capsys.readouterr().err
    assert 'configs/mmdet/metafile.yml is not what the configs say' in err and 'mmseg' not in err
    assert (copy / 'configs/mmdet/metafile.yml').read_text() == before
    (copy / 'model-index.yml').unlink()
    assert make_metafiles.main(['--check'], copy) == 1 and 'model-index.yml' in capsys.readouterr().err


def test_data_without_a_name_are_an_error(copy, capsys):
    (copy / 'configs/mmdet/b.py').write_text("train_dataloader = dict(dataset=dict(type='LVISV1Dataset'))")
    assert make_metafiles.main([], copy) == 2
    err = capsys.readouterr().err
    assert f"must be one of {', '.join(make_metafiles.DATA)}, got 'LVISV1Dataset' in " in err


@pytest.mark.parametrize('base', [
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'])
def test_the_readmes_own_model(base, tmp_path):
    text, = re.findall(r"```python\n(_base_ = 'mmdet::.+?)```", (CONFIGS.parent / 'README.md').read_text(), re.S)
    (tmp_path / 'mine.py').write_text(re.sub(r"'mmdet::[^']+'", f"'mmdet::{base}'", text))
    model = build(Config.fromfile(tmp_path / 'mine.py'))
    assert type(model.backbone).__name__ == 'SwinTransformerV2' and hasattr(model.backbone, 'window_sizes')
    assert [conv.conv.in_channels for conv in model.neck.lateral_convs] == list(model.backbone.arch.dims)
