"""The small segmentation data set: determinism, ADE20K's format and ids, disjoint sources, what it refuses."""

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from mmseg.datasets import ADE20KDataset
from PIL import Image

import make_mini_ade20k
from helpers.folders import check_seeds, make
from make_mini_ade20k import CLASSES

pytestmark = pytest.mark.mmseg

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('mini') / 'data'
    result = make(make_mini_ade20k, out)
    assert result.returncode == 0, result.stderr
    return out


def test_same_arguments_same_bytes_and_another_seed_another_set(data, tmp_path):
    check_seeds(make_mini_ade20k, data, tmp_path)


def test_ids_are_ade20ks():
    names = [name.strip() for name in ADE20KDataset.METAINFO['classes']]
    assert len(names) == 150
    assert {name: label for name, (label, *_) in CLASSES.items()} == {name: names.index(name) + 1 for name in CLASSES}


def test_is_read_as_ade20k(data):
    with DefaultScope.overwrite_default_scope('mmseg'):
        for folder, count in (('training', 12), ('validation', 6)):
            pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', reduce_zero_label=True),
                        dict(type='mmswinv2.CheckLabels', num_classes=150)]
            read = ADE20KDataset(data_root=str(data), pipeline=pipeline, data_prefix=dict(
                img_path=f'images/{folder}', seg_map_path=f'annotations/{folder}'))
            assert len(read) == count
            seen = set()
            for item in (read[i] for i in range(count)):
                assert item['img'].shape[:2] == item['gt_seg_map'].shape
                seen |= set(np.unique(item['gt_seg_map']).tolist())
            labels = {label - 1 for label, *_ in CLASSES.values()}
            assert seen <= labels | {255}
            assert len(seen & labels) >= 5


def test_train_and_val_share_no_row_of_a_photograph(tmp_path, monkeypatch):
    photograph = Image.fromarray(np.arange(200, dtype=np.uint8).repeat(9).reshape(200, 9))  # the value of a row says it
    given = []

    def make_image(textures, rng):
        given.append({name: set(pixels.flatten().tolist()) for name, (_, pixels, *_) in textures.items()})
        return np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    monkeypatch.setattr(make_mini_ade20k, 'make_image', make_image)
    monkeypatch.setattr(make_mini_ade20k.Image, 'open', lambda path: photograph)
    for split in ('train', 'val'):
        make_mini_ade20k.write_split(tmp_path, split, 1, (0, 0))
    train, val = given
    assert train.keys() == val.keys() == {*CLASSES, ''}
    for name in train:
        assert len(train[name]) > 100 and len(val[name]) > 50 and not train[name] & val[name]


def test_labels_follow_the_image(data):
    for path in sorted((data / 'images' / 'training').glob('*.jpg')):
        image = Image.open(path)
        labels = Image.open(data / 'annotations' / 'training' / f'{path.stem}.png')
        assert labels.mode == 'L' and labels.size == image.size
        assert len(np.unique(labels)) >= 2
