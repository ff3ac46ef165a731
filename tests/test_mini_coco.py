"""The small data set: determinism, exact polygons, disjoint photographs, what it refuses."""
import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from shapely import Polygon
from shapely.ops import unary_union

import make_mini_coco
from helpers.folders import check_seeds, make

pytestmark = pytest.mark.mmdet

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('mini') / 'data'
    result = make(make_mini_coco, out)
    assert result.returncode == 0, result.stderr
    return out


def test_same_arguments_same_bytes_and_another_seed_another_set(data, tmp_path):
    check_seeds(make_mini_coco, data, tmp_path)


def test_is_coco(data):
    for split, count in (('train', 12), ('val', 6)):
        coco = COCO(str(data / 'annotations' / f'instances_{split}.json'))
        assert len(coco.imgs) == count
        assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == list(make_mini_coco.CLASSES)
        assert len(make_mini_coco.CLASSES) >= 3
        for info in coco.imgs.values():
            image = Image.open(data / split / info['file_name'])
            assert image.size == (info['width'], info['height'])
            assert 1 <= len(coco.imgToAnns[info['id']]) <= make_mini_coco.MAX_OBJECTS


def test_polygons_boxes_and_areas_agree_and_objects_do_not_overlap(data):
    for split in ('train', 'val'):
        coco = COCO(str(data / 'annotations' / f'instances_{split}.json'))
        for info in coco.imgs.values():
            shapes = []
            for ann in coco.imgToAnns[info['id']]:
                shape = unary_union([Polygon(np.reshape(s, (-1, 2))) for s in ann['segmentation']])
                assert shape.is_valid and shape.area == pytest.approx(ann['area'], rel=.01)
                x, y, w, h = ann['bbox']
                assert shape.bounds == pytest.approx((x, y, x + w, y + h), abs=.02)
                assert x >= 0 and y >= 0 and x + w <= info['width'] and y + h <= info['height']
                assert coco.annToMask(ann).sum() == pytest.approx(ann['area'], rel=.1, abs=12)
                shapes.append(shape)
            total = sum(s.area for s in shapes)
            assert unary_union(shapes).area == pytest.approx(total, rel=1e-3)


def test_what_is_hidden_is_cut_away():
    square = Polygon([(0, 0), (10, 0), (10, 10), (0, 10)])
    (label, left, area), = make_mini_coco.hide([(2, square, 100.)], Polygon([(6, -1), (20, -1), (20, 11), (6, 11)]))
    assert (label, left.area, area) == (2, 60., 100.)
    hole, most = Polygon([(4, 4), (6, 4), (6, 6), (4, 6)]), Polygon([(1, -1), (20, -1), (20, 11), (1, 11)])
    assert make_mini_coco.hide([(2, square, 100.)], hole) is None
    assert make_mini_coco.hide([(2, square, 100.)], most) is None


def test_pixels_match_polygons():
    """The image changes where the polygon is, at pixel (x, y) = [x, x+1) x [y, y+1)."""
    alpha = make_mini_coco.rasterize(Polygon([(2, 3), (6, 3), (6, 5), (2, 5)]), 10, 8)
    assert alpha.shape == (8, 10)
    assert alpha.sum() == pytest.approx(8, rel=.3)
    assert alpha[3:5, 2:6].min() == 1 and alpha[:2].max() == 0 and alpha[:, 8:].max() == 0


def test_train_and_val_share_no_photograph(tmp_path, monkeypatch):
    given = []

    def make_image(photographs, rng):
        given.append({hashlib.sha256(p.tobytes()).hexdigest() for p in photographs})
        return np.zeros((8, 8, 3), np.uint8), []
    monkeypatch.setattr(make_mini_coco, 'make_image', make_image)
    for split in ('train', 'val'):
        make_mini_coco.write_split(tmp_path, split, 1, (0, 0))
    train, val = given
    assert len(train) >= 5 and len(val) >= 5 and not train & val


def test_several_sizes_and_occlusion_occur(data):
    anns = json.loads((data / 'annotations' / 'instances_train.json').read_text())['annotations']
    areas = [a['area'] for a in anns]
    assert min(areas) < 32**2 and max(areas) > 2 * 32**2  # small and medium
    corners = {len(a['segmentation'][0]) // 2 for a in anns}
    assert corners - {3, 4, 10, 32}, 'no polygon was cut by another'


@pytest.mark.parametrize('args, message', [(('--val', '0'), '--val must be >= 1 images, got 0'),
                                           (('--seed', '-1'), '--seed must be >= 0, got -1')])
def test_bad_arguments_are_named(args, message, tmp_path):
    result = make(make_mini_coco, tmp_path / 'a', *args)
    assert result.returncode == 2 and message in result.stderr and not (tmp_path / 'a').exists()


def test_paste_changes_the_object_and_nothing_else():
    rng = np.random.default_rng(0)
    shape = Polygon([(20, 10), (60, 10), (60, 40), (20, 40)])
    alpha = make_mini_coco.rasterize(shape, 100, 80)
    photograph = rng.integers(0, 255, (300, 300, 3)).astype(np.uint8)
    image = np.zeros((80, 100, 3))
    make_mini_coco.paste(image, alpha, [photograph], np.array([200., 90., 90.]), rng)
    inside = alpha > 0
    assert (image[inside].max(-1) > 0).mean() > .95 and image[~inside].max() == 0
    assert image[inside][:, 0].std() > 5  # a photograph, not a plain colour
