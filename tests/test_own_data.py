"""docs/own_data.md: its configs, its commands as typed, and what data that do not fit are told."""
import json
import math
import os
import re
import shutil
import sys
import time
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

import make_photographs
from helpers.configs import build, load, register
from helpers.docs import files, steps
from helpers.runs import run
from mmswinv2.engine import CheckClassesHook
from mmswinv2.hosts import is_installed
from mmswinv2.inputs import distinct_colours, size_as_read

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg, pytest.mark.mim]

ROOT = Path(__file__).parents[1]
PAGE = Path('docs/own_data.md')


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    out = tmp_path_factory.mktemp('own') / 'data' / 'photographs'
    assert make_photographs.main([str(out)]) == 0
    return out


@pytest.fixture
def whole(photographs, monkeypatch):
    """The photographs, below the working directory."""
    monkeypatch.chdir(photographs.parents[1])


@pytest.fixture
def copy(photographs, tmp_path, monkeypatch):
    """Those to test with, as a test may spoil them, below the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(photographs, tmp_path / 'data' / 'photographs',
                                ignore=lambda folder, names: {name for name in names if name.startswith('train')}))


def config(name, folder, *, mini):
    """A config of the page, with the base of its trial if ``mini``."""
    text = files(PAGE)[name].replace("'./configs", f"'{ROOT}/configs")
    if mini:
        text = text.replace('swinv2_t_own-data', 'swinv2_own-data_mini')
    path = Path(folder) / name
    path.write_text(text)
    return Config.fromfile(path)


def classes_of(cfg):
    """Of each box and mask head that a config builds."""
    head = build(cfg).roi_head
    return [h.num_classes for h in [*head.bbox_head, *(head.mask_head if head.with_mask else [])]]


@pytest.mark.parametrize('mini', [True, False])
def test_one_variable_sets_all_heads(mini, tmp_path):
    cfg = config('photographs.py', tmp_path, mini=mini)
    assert classes_of(cfg) == [2] * 6
    if mini:  # writing a config takes a second
        cfg.dump(tmp_path / 'dumped.py')
        assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()
    model = build(config('photographs_seg.py', tmp_path, mini=mini))
    assert model.decode_head.conv_seg.out_channels == model.auxiliary_head.conv_seg.out_channels == 3


@pytest.mark.parametrize('name, heads', [
    ('cascade-mask-rcnn_swinv2_t_w16', 6), ('htc_swinv2_g_objects365', 3), ('htc_swinv2_l', 6),
    ('cascade-mask-rcnn', 6), ('cascade-rcnn', 3)])
def test_so_it_does_in_any_config_of_mmdet(name, heads):
    """The heads of mmdet's own say 80, and a config that inherits a list cannot change one thing in it."""
    register('mmdet')
    models = Path(find_spec('mmdet').origin).parent / '.mim/configs/_base_/models'
    cfg = load(f'mmdet/{name}.py') if 'swinv2' in name else Config.fromfile(models / f'{name}_r50_fpn.py')
    cfg.merge_from_dict({'default_scope': 'mmdet', 'model.roi_head.num_classes': 7})
    if 'swinv2' not in name:
        cfg.model.roi_head.type = 'mmswinv2.CascadeRoIHead'
    assert classes_of(cfg) == [7] * heads


def test_a_head_that_says_another_number_is_an_error():
    cfg = load('mmdet/htc_swinv2_t.py')
    cfg.model.roi_head.bbox_head[1].num_classes = 80
    assert classes_of(cfg) == [80] * 6
    cfg.model.roi_head.bbox_head[1].num_classes = 2
    with pytest.raises(ValueError, match=r'bbox_head.1.num_classes must be left out or be 80, .*got 2'):
        build(cfg)
    cfg.model.roi_head.num_classes = 2.
    with pytest.raises(ValueError, match=r'num_classes must be an integer >= 1 or None, got 2.0'):
        build(cfg)
    cfg.model.roi_head.num_classes = None
    assert classes_of(cfg) == [80, 2, 80, 80, 80, 80]  # 80 is mmdet's default


@pytest.mark.parametrize('mini', [True, pytest.param(False, marks=pytest.mark.slow)])  # large images
def test_what_the_page_trains_on_is_read(mini, whole, tmp_path):
    train, val = samples('mmdet', config('photographs.py', tmp_path, mini=mini))
    assert [sample.gt_instances.labels.tolist() for sample in val] == [[0], [0], [1]]
    assert {label for sample in train for label in sample.gt_instances.labels.tolist()} == {0, 1}
    train, val = ([set(sample.gt_sem_seg.data.unique().tolist()) for sample in part]
                  for part in samples('mmseg', config('photographs_seg.py', tmp_path, mini=mini)))
    assert val == [{0, 2, 255}, {0, 1, 255}, {0, 1, 255}]  # a cell, a cat, a woman
    assert set.union(*train) == {0, 1, 2, 255}


def samples(host, cfg):
    """What training and validation read; one of test-time augmentation, too."""
    register(host)
    from mmengine.registry import DATASETS
    np.random.seed(0)
    with DefaultScope.overwrite_default_scope(host):
        train, val = (DATASETS.build(loader.dataset) for loader in (cfg.train_dataloader, cfg.val_dataloader))
        views = DATASETS.build(dict(cfg.test_dataloader.dataset, pipeline=cfg.tta_pipeline))[0]
    assert (len(train), len(val)) == (8, 3) and len(views['inputs']) == len(views['data_samples']) > 1
    read = [[data[i] for i in range(len(data))] for data in (train, val)]
    assert all(item['inputs'].shape[0] == 3 for part in read for item in part)  # of grey and RGBA images, too
    return [[item['data_samples'] for item in part] for part in read]


def edit(path, change):
    """Changes a JSON file in place."""
    coco = json.loads(path.read_text())
    change(coco)
    path.write_text(json.dumps(coco))


def turn(copy):
    """Gives a photograph an EXIF orientation."""
    path = copy / 'images/val/grace_hopper.jpg'
    image = Image.open(path)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif)


def late(data):
    """A PNG with its EXIF after the pixels."""
    chunk = re.search(rb'....eXIf.*?(?=....IDAT)', data, re.DOTALL)[0]
    end = data.index(b'IEND') - 4
    return data[:end].replace(chunk, b'') + chunk + data[end:]


PACKET = '<rdf:Description tiff:Orientation="{}"/>'


@pytest.mark.parametrize(['suffix', 'kind'], [
    *product(['jpg', 'png', 'tif', 'webp'], ['RGB', 'L', 'XMP']), ('png', 'I;16'), ('tif', 'I;16'), ('png', 'late'),
    ('bmp', 'RGB'), ('gif', 'RGB'), ('jp2', 'RGB')])
def test_sizes_are_those_that_are_read(suffix, kind, tmp_path):
    """By OpenCV, as images are, and by Pillow, as masks are."""
    path, exif = tmp_path / f'a.{suffix}', Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        tag = dict(xmp=PACKET.format(orientation).encode()) if kind == 'XMP' else dict(exif=exif)
        Image.new('RGB' if kind in ('late', 'XMP') else kind, (30, 20)).save(path, **tag)
        if kind == 'late':
            path.write_bytes(late(path.read_bytes()))
        assert size_as_read(path) == mmcv.imread(path).shape[1::-1]
        assert size_as_read(path, turn=False) == mmcv.imread(path, flag='unchanged', backend='pillow').shape[1::-1]


def test_files_that_opencv_cannot_read_are_an_error(tmp_path):
    Image.new('RGB', (30, 20)).save(tmp_path / 'a.tga')
    with pytest.raises(ValueError, match='a.tga must be an image that OpenCV reads, got TGA of mode RGB'):
        size_as_read(tmp_path / 'a.tga')
    assert size_as_read(tmp_path / 'a.tga', turn=False) == (30, 20)


def second(**changes):
    """Changes the second annotation, a head of 225 x 317 px in grace_hopper.jpg, 512 x 600 px."""
    return lambda coco: coco['annotations'][1].update(changes)


def each_box(change):
    """Changes each box with the size of its image."""
    def spoil(coco):
        for annotation, image in zip(coco['annotations'], coco['images']):
            annotation['bbox'] = change(*annotation['bbox'], image['width'], image['height'])
    return spoil


def ids(part, key, change):
    """Changes ids, and those of images and categories in annotations, too."""
    def spoil(coco):
        for item in [*coco[part], *(coco['annotations'] if part != 'annotations' else [])]:
            name = 'id' if item in coco[part] else key
            item[name] = change(item[name])
    return spoil


NAMED = 'annotation 2 of grace_hopper.jpg has'
FOLDERS = {  # a change of the folder, and what is said
    'missing': (lambda copy: (copy / 'images/val/cell.png').unlink(), r'must name an image in .*images/val.*cell.png'),
    'no image': (lambda copy: (copy / 'images/val/cell.png').write_bytes(b'no'), 'cell.png must be an image, got'),
    'turned': (turn, r'width and height must be .*grace_hopper.jpg is 600 x 512 px, not 512 x 600'),
    'no JSON': (lambda copy: (copy / 'val.json').write_text('{'), 'must be a file in COCO.s format, got .*val.json'),
}
INSTANCES = {  # a change of the file, and what is said
    'renamed': (lambda coco: coco['categories'][0].update(name='Head'),
                r'val.json: categories must have each of metainfo.classes once, got none called head; .* Head, disc'),
    'twice': (lambda coco: coco['categories'].append(dict(id=9, name='disc')), 'got a name more than once'),
    'another order': (lambda coco: coco['categories'].reverse(),
                      r"order of the categories of .*val.json, \('disc', 'head'\), got \('head', 'disc'\)"),
    'no such image': (second(image_id=17), 'image_id must be the id of an image, got 1 .* do not: annotation 2 has 17'),
    'no such category': (second(category_id=0), 'category_id must be the id of a category, .*: annotation 2 has 0'),
    'an id twice': (lambda coco: coco['images'][0].update(id=3),
                    'ids of images must be different, got 1 that do not: chelsea.png'),
    'empty': (lambda coco: coco.update(images=[], annotations=[]), 'must have an object'),
    'an image is no object': (lambda coco: coco['images'].append([]),
                              r'images must have id, file_name, .*got 1 that do not: number 3 has \[\]'),
    'no list': (lambda coco: coco.update(images={}), 'images must be a list'),
    'no width': (lambda coco: coco['images'][0].pop('width'),
                 'images must have id, file_name, width, height, .* got 1 .*: number 0 has id, file_name, height'),
    'a list as an id': (second(image_id=[2]),
                        r'ids of annotations must be numbers or text, .* got 1 .*: number 1 has image_id \[2\]'),
    'an image without a name': (lambda coco: coco['images'][0].update(file_name=None),
                                'names text, got 1 that do not: number 0 has file_name None'),
    'a number as a name': (lambda coco: coco['categories'][0].update(name=3),
                           'names text, got 1 that do not: number 0 has name 3'),
    'three numbers': (second(bbox=[151, 23, 225]), f'bbox must be four finite numbers .* got 1 .*: {NAMED} .151, 23, '),
    'nested': (second(bbox=[[151, 23, 225, 317]]), 'bbox must be four finite numbers'),
    'text': (second(bbox=['151', '23', '225', '317']), 'bbox must be four finite numbers'),
    'no number': (second(bbox=[151, 23, None, 317]), 'bbox must be four finite numbers'),
    'not a number': (second(bbox=[151, 23, math.nan, 317]), f'bbox must be four finite numbers .*{NAMED} .*nan'),
    'no box': (second(bbox=None), f'bbox must be four finite numbers .*{NAMED} None'),
    'flat': (second(bbox=[151, 23, 0, 317]), rf'sides of a bbox must be >= 1 px, .*others, got 1 .*: {NAMED} .151'),
    'thin': (second(bbox=[151, 23, 225, .9]), 'sides of a bbox must be >= 1 px'),
    'backwards': (second(bbox=[376, 340, -225, -317]), 'sides of a bbox must be >= 1 px'),
    '0 to 1': (each_box(lambda x, y, w, h, width, height: [x / width, y / height, w / width, h / height]),
               r'sides of a bbox must be >= 1 px, .*\(0 to 1\?\), got 3 that do not: annotation 1 of chelsea.png has'),
    'elsewhere': (second(bbox=[-300, 23, 225, 317]), f'bbox must be in its image but for a pixel of .*{NAMED}'),
    'beside': (second(bbox=[512, 23, 1, 317]), 'bbox must be in its image'),
    'above': (second(bbox=[151, -2, 225, 317]), 'bbox must be in its image'),
    'corners': (each_box(lambda x, y, w, h, *size: [x, y, x + w, y + h]), r'be in its image .*\(corners\?\), got 2'),
    'centres': (each_box(lambda x, y, w, h, *size: [x + w / 2, y + h / 2, w, h]), r'in its image .*\(centres\?\), '),
    'no area': (second(area=0), f'area must be a finite number > 0, .* got 1 that do not: {NAMED} 0'),
    'area is text': (second(area='56386'), 'area must be a finite number > 0'),
    'area is none': (second(area=None), 'area must be a finite number > 0'),
    'ignored': (second(ignore=1), f'ignore must be 0, mmdet .*{NAMED} 1'),
    'crowd is text': (second(iscrowd='0'), f"iscrowd must be 0 or 1, .*{NAMED} '0'"),
    'ids of two kinds': (lambda coco: (coco['images'][0].update(id='1'), coco['annotations'][0].update(image_id='1')),
                         "ids of images must all be numbers or all be text, got 1 .*: chelsea.png has '1'"),
    'an id of two': (lambda coco: coco['categories'].append(dict(id='2', name='other')),
                     'ids of categories must be different integers, got 1 .*: disc has 2'),
    'a name as an id': (ids('categories', 'category_id', lambda i: f'c{i}'),
                        "ids of categories must be different integers, got 2 .*: head has 'c1', disc has 'c2'"),
}
@pytest.mark.parametrize('case', [*FOLDERS, *INSTANCES])
def test_instances_that_do_not_fit_are_an_error(case, copy):
    assert len(instances()) == 3
    spoil, message = (FOLDERS | INSTANCES)[case]
    spoil(copy) if case in FOLDERS else edit(copy / 'val.json', spoil)
    for test_mode in True, False:
        with pytest.raises(ValueError, match=message):
            instances(test_mode=test_mode)


def instances(classes=('head', 'disc'), with_mask=False, **more):
    """The data set of validation of the page's config."""
    register('mmdet')
    from mmdet.registry import DATASETS
    steps = [dict(type='mmdet.LoadImageFromFile'),
             dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=with_mask)]
    return DATASETS.build(dict(dict(
        type='mmswinv2.CocoInstances', data_root='data/photographs/', ann_file='val.json', pipeline=steps,
        data_prefix=dict(img='images/val/'), metainfo=dict(classes=classes), test_mode=True,
        serialize_data=False), **more))  # serializing collects garbage


def rle(coco, compress):
    """Writes the second mask as a run-length encoding."""
    from pycocotools import mask
    encoded, = mask.frPyObjects(coco['annotations'][1]['segmentation'], 600, 512)
    flat = mask.decode(encoded).T.reshape(-1)
    counts = np.diff(np.flatnonzero(np.diff(flat)), prepend=-1, append=flat.size - 1).tolist()
    coco['annotations'][1]['segmentation'] = dict(
        size=[600, 512], counts=encoded['counts'].decode() if compress else counts)


HOLD = {  # files that are right, or are read as they are meant
    'as it is': lambda coco: None,
    'ids from 0': ids('annotations', 'id', lambda i: i - 1),
    'ids that repeat': ids('annotations', 'id', lambda i: 7),
    'ids with gaps': ids('annotations', 'id', lambda i: i ** 40),
    'ids are text': ids('annotations', 'id', lambda i: f'a{i}'),
    'ids of images are text': ids('images', 'image_id', lambda i: f'00{i}'),
    'ids of images from 0': ids('images', 'image_id', lambda i: i - 1),
    'ids of categories are text': ids('categories', 'category_id', lambda i: str(i + 9)),
    'ids of categories from 0': ids('categories', 'category_id', lambda i: i - 1),
    'ids of categories are floats': ids('categories', 'category_id', float),
    'ids of categories are negative text': ids('categories', 'category_id', lambda i: f'-{i}'),
    'no ids': ids('annotations', 'id', lambda i: None),
    'no iscrowd': lambda coco: [annotation.pop('iscrowd') for annotation in coco['annotations']],
    'iscrowd is none': second(iscrowd=None),
    'not ignored': second(ignore=0),
    'a pixel of rounding': second(bbox=[151, -1, 225, 341]),
    'a part of two points': lambda coco: coco['annotations'][1]['segmentation'].insert(0, [1, 2, 3, 4]),
    'an odd part': lambda coco: coco['annotations'][1]['segmentation'].append([1, 2, 3, 4, 5, 6, 7]),
    'a part outside': lambda coco: coco['annotations'][1]['segmentation'].append([-9, 5, 2, 5, 2, 8]),
    'run lengths': lambda coco: rle(coco, False),
    'compressed run lengths': lambda coco: rle(coco, True),
    'an invalid box of another class': lambda coco: (
        coco['categories'].append(dict(id=5, name='other')),
        coco['annotations'].append(dict(id=9, image_id=1, category_id=5, bbox=[0, 0, 0, 0], area=0))),
}


@pytest.mark.parametrize('case', HOLD)
def test_perfect_predictions_have_an_ap_of_1(case, copy):
    """With mmdet's own metric, which reads the file again."""
    edit(copy / 'val.json', HOLD[case])
    scores = score(instances(with_mask=True), format_only=False)
    assert [scores[f'coco/{name}'] for name in ('bbox_mAP', 'segm_mAP', 'head_precision', 'disc_precision')] == [1] * 4
    assert len(instances(with_mask=True, test_mode=False, filter_cfg=dict(filter_empty_gt=True, min_size=32))) == 3


def score(data, found=(0, 1), **more):
    """What mmdet's metric says of a data set's own objects, those of some labels."""
    from mmdet.registry import METRICS
    from pycocotools import mask
    metric = METRICS.build(dict(
        type='mmdet.CocoMetric', ann_file=data.ann_file, metric=['bbox', 'segm'], classwise=True, **more))
    metric.dataset_meta = data.metainfo
    for sample in data:
        kept = np.isin(sample['gt_bboxes_labels'], found)
        masks = [mask.encode(np.asfortranarray(m)) for m in sample['gt_masks'].masks[kept]]
        predicted = dict(bboxes=sample['gt_bboxes'].tensor[kept], labels=torch.tensor(sample['gt_bboxes_labels'][kept]),
                         scores=torch.ones(len(masks)), masks=masks)
        metric.process({}, [dict(sample, pred_instances=predicted)])
    return metric.evaluate(len(data))


def test_ap_stands_beside_the_name_of_its_class(copy):
    """Whatever the order of ids in the file."""
    edit(copy / 'val.json', ids('categories', 'category_id', lambda i: 9 - i))
    scores = score(instances(with_mask=True), found=[0])
    assert [scores[f'coco/{name}'] for name in ('head_precision', 'disc_precision')] == [1, 0]


def test_crowds_are_read(copy):
    """They are neither objects nor background, in training and in evaluation."""
    edit(copy / 'val.json', second(iscrowd=1))
    edit(copy / 'val.json', lambda coco: rle(coco, False))
    data = instances(with_mask=True)
    assert [sample['gt_ignore_flags'].tolist() for sample in data] == [[False], [True], [False]]
    assert score(data)['coco/segm_mAP'] == 1


@pytest.mark.parametrize('segmentation', [
    None, [], [[]], [[5, 6, 7, 8]], [151, 23, 376, 23, 376, 340], [[151, 23, 376, 23, 376]], '', [None],
    [[151, 23, None, 23, 5, 6]], [['151', '23', '376', '23', '376', '340']], {},
    dict(counts=[100, 10], size=[600, 512]), dict(counts='abc', size=[512, 600]), dict(counts=None, size=[600, 512]),
    # pycocotools hangs, takes all memory, or ends in an error without a name
    [[151, 23, 376, 23, 376, 1e30]],
    dict(counts=[500.5, 20.5, 306679], size=[600, 512]), dict(counts=[500, -20, 306720], size=[600, 512]),
    dict(counts='o1', size=[600, 512]), dict(counts='hello world', size=[600, 512]), dict(counts='Q', size=[600, 512]),
    # without a pixel: masks of background
    dict(counts=[307200], size=[600, 512]), dict(counts='', size=[600, 512]), [[160, 30, 160, 30, 160, 30]],
    [[160, 30, 170, 40, 180, 50]], [[700, 100, 720, 100, 720, 120]], [[.1, .2, .3, .2, .3, .4]],
    [[400, 400, 420, 400, 420, 420]]])  # beside its box
def test_objects_need_masks_where_masks_are_read(segmentation, copy):
    edit(copy / 'val.json', second(segmentation=segmentation))
    for test_mode in True, False:
        with pytest.raises(ValueError, match=f'segmentation must have polygons .* got 1 that do not: {NAMED}'):
            instances(with_mask=True, test_mode=test_mode)
        assert [len(sample['gt_bboxes']) for sample in instances(test_mode=test_mode)] == [1, 1, 1]
    edit(copy / 'val.json', lambda coco: coco['annotations'][1].pop('segmentation'))
    with pytest.raises(ValueError, match=f'segmentation must have polygons .*{NAMED} none'):
        instances(with_mask=True)


def test_images_that_mmdet_filters_are_an_error(copy):
    assert len(instances(filter_cfg=dict(min_size=400))) == 3  # at test nothing is filtered
    with pytest.raises(ValueError, match=r'filter_cfg.min_size, 400 px, got 1 that do not: chelsea.png'):
        instances(filter_cfg=dict(min_size=400), test_mode=False)


def test_images_need_not_be_turned(copy):
    turn(copy)
    steps = [dict(type='mmdet.LoadImageFromFile', color_type='color_ignore_orientation')]
    assert instances(pipeline=steps)[1]['img'].shape[:2] == (600, 512)


@pytest.mark.parametrize('rest', [dict(annotations=[]), {}])
def test_a_test_set_needs_no_annotations(rest, copy):
    """For predictions that are written; where they would be scored, the hook says so before training or the test."""
    coco = json.loads((copy / 'val.json').read_text())
    (copy / 'val.json').write_text(json.dumps(dict(images=coco['images'], categories=coco['categories'], **rest)))
    data = instances(with_mask=True)
    assert len(data) == 3 and data.parts == {'images', 'categories'}
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=data),
                           evaluator=SimpleNamespace(metrics=[SimpleNamespace(format_only=True), object()]))
    runner = SimpleNamespace(model=torch.nn.Module(), train_loop=loop, val_loop=loop, test_loop=loop)
    hook = CheckClassesHook()
    hook.before_test(runner)
    assert score(data, format_only=True, outfile_prefix='predicted') == {}
    assert json.loads(Path('predicted.bbox.json').read_text()) == []
    loop.evaluator.metrics[0].format_only = False
    for check in hook.before_train, hook.before_val, hook.before_test:
        with pytest.raises(ValueError, match='val.json must have annotations of .* format_only=True'):
            check(runner)
    with pytest.raises(ValueError, match='annotations must '):
        instances(test_mode=False)
    (copy / 'val.json').write_text(json.dumps(dict(images=coco['images'])))
    loop.dataloader.dataset = instances()
    assert [len(sample['gt_bboxes']) for sample in loop.dataloader.dataset] == [0, 0, 0]
    loop.evaluator.metrics[0].format_only = True
    with pytest.raises(ValueError, match='val.json must have categories, whose ids format_only=True writes'):
        hook.before_test(runner)


def test_a_category_may_be_left_out(copy):
    assert [len(instances(('disc',))[i]['instances']) for i in range(3)] == [0, 0, 1]


@pytest.mark.parametrize('classes', ['head', None, (), ('head', ''), ('head', 2)])
@pytest.mark.parametrize('host', ['mmdet', 'mmseg'])
def test_classes_are_a_list_of_names(host, classes, copy):
    with pytest.raises(ValueError, match=r"metainfo.classes must be a list of names, .* got "):
        (instances if host == 'mmdet' else masks)(classes)
    with pytest.raises(ValueError, match='metainfo.classes must be different names, got disc more than once'):
        (instances if host == 'mmdet' else masks)(('disc', 'head', 'disc'))


def masks(classes=('background', 'head', 'disc'), **more):
    """The data set of validation of the page's second config."""
    register('mmseg')
    from mmseg.registry import DATASETS
    steps = [dict(type=name) for name in ('mmseg.LoadImageFromFile', 'mmseg.LoadAnnotations')]
    return DATASETS.build(dict(dict(
        type='mmswinv2.MaskImages', data_root='data/photographs/', metainfo=dict(classes=classes),
        data_prefix=dict(img_path='images/val', seg_map_path='masks/val'), test_mode=True,
        pipeline=[*steps, dict(type='mmswinv2.CheckLabels', num_classes=150)], serialize_data=False), **more))


def paint(path, value):
    """Gives a mask another label."""
    labels = np.asarray(Image.open(path)).copy()
    labels[labels != 0] = value
    Image.fromarray(labels).save(path)


def cell(copy, part='masks'):
    return copy / part / 'val/cell.png'


MASKS = {  # a change of the folder, and what is said
    'missing': (lambda copy: cell(copy).unlink(),
                r'images/val: an image must have a mask of its name in .*masks/val, got 1 .*val/cell.png without'),
    'size': (lambda copy: Image.new('L', (8, 9)).save(cell(copy)),
             'a mask must have the size of its image, .*cell.png is 8 x 9 px, not 550 x 660'),
    'two of a name': (lambda copy: Image.new('L', (8, 9)).save(cell(copy, 'images').with_suffix('.bmp')),
                      'must differ in more than the suffix, got 1 .*cell.bmp and .*cell.png'),
    'no images': (lambda copy: shutil.rmtree(copy / 'images/val'), 'img_path must be a folder of images'),
    'more than 8 bits': (lambda copy: Image.fromarray(np.full((660, 550), 257, np.uint16)).save(cell(copy)),
                         r'must be stored as whole numbers .*cell.png has \[257\], read modulo 256'),
    'cut off': (lambda copy: cell(copy).write_bytes(cell(copy).read_bytes()[:-99]),
                'masks/val/cell.png must be an image, got OSError: '),
    'a link to nothing': (lambda copy: (copy / 'images/val/more').symlink_to(copy / 'none'),
                          r'links must lead somewhere, got 1 that do not: .*images/val/more'),
    '0 and 255': (lambda copy: [paint(path, 255) for path in (copy / 'masks/val').iterdir()],
                  r'0 and 255 must be written as 0 and 1; got \[0, 255\] in the first 3'),
    'another label': (lambda copy: paint(cell(copy), 3), r'labels of .*cell.png must be 0 to 2 or 255 .*got \[3\]'),
}


@pytest.mark.parametrize('case', MASKS)
def test_masks_that_do_not_fit_are_an_error(case, copy):
    """A label without a class is one in its item, whatever number of classes the pipeline was written for."""
    spoil, message = MASKS[case]
    assert len(list(masks())) == 3
    spoil(copy)
    with pytest.raises(ValueError, match=message):
        data = masks()
        assert case == 'another label'  # others are found at once
        data[0]


@pytest.mark.parametrize('name', ['ann_file', 'img_suffix'])
def test_what_masks_have_no_use_for_is_refused(name, copy):
    with pytest.raises(ValueError, match=f"{name} must be left out: .*got 'x'"):
        masks(**{name: 'x'})


@pytest.mark.parametrize('prefix', [dict(img_path='images/val'), dict(img_path='images/val', seg_map_path=None)])
@pytest.mark.parametrize('pipeline', ['test_pipeline', 'tta_pipeline'])
def test_images_without_masks_are_read_when_none_are_named(prefix, pipeline, copy, tmp_path):
    """By the pipelines of the page's config, which want masks."""
    shutil.rmtree(copy / 'masks')
    cfg = config('photographs_seg.py', tmp_path, mini=True)
    with DefaultScope.overwrite_default_scope('mmseg'):
        items = list(masks(data_prefix=prefix, pipeline=cfg[pipeline]))
    views = [item['data_samples'] if pipeline == 'tta_pipeline' else [item['data_samples']] for item in items]
    assert [len(samples) for samples in views] == [6 if pipeline == 'tta_pipeline' else 1] * 3
    assert not any('gt_sem_seg' in sample for samples in views for sample in samples)


def test_classes_have_colours_that_can_be_told_apart(copy):
    """In both hosts the same, unless the config has others; the background is black."""
    assert instances().metainfo['palette'] == masks().metainfo['palette'][1:]
    assert masks().metainfo['palette'][0] == (0, 0, 0)
    colours = np.array(distinct_colours(20), dtype=int)
    apart = np.abs(colours[:, None] - colours).sum(-1)
    assert apart[~np.eye(20, dtype=bool)].min() > 80 and distinct_colours(5) == distinct_colours(20)[:5]
    own = ((1, 2, 3), (4, 5, 6))
    assert instances(metainfo=dict(classes=('head', 'disc'), palette=own)).metainfo['palette'] == list(own)
    for palette in own[:1], 'random', [1, 2]:
        with pytest.raises(ValueError, match='metainfo.palette must have red, green and blue of .*, 2 colours, got'):
            instances(metainfo=dict(classes=('head', 'disc'), palette=palette))


def test_hosts_tools_find_the_classes(whole):
    """mmseg's confusion_matrix and browse_dataset look for them in ``METAINFO``; other data sets keep theirs."""
    assert masks().METAINFO['classes'] == ('background', 'head', 'disc')
    assert 'classes' not in type(masks()).METAINFO


def test_folders_behind_links_are_looked_into(copy):
    """Two of five images are in the folder itself. Links that lead up, or around, end."""
    for kind in 'images', 'masks':
        folder = copy / kind / 'set'
        (folder / 'deep').mkdir(parents=True)
        for link, target in ('set/deep/val', 'val'), ('set/up', ''), ('val/around', 'set'):
            (copy / kind / link).symlink_to(copy / kind / target, target_is_directory=True)
        for name in 'one', 'two':
            Image.new('L', (8, 9)).save(folder / f'{name}.png')
    data = masks(data_prefix=dict(img_path='images/set', seg_map_path='masks/set'))
    assert [data.get_data_info(i)['img_path'].partition('images/set/')[2] for i in range(len(data))] == [
        'deep/val/cell.png', 'deep/val/chelsea.png', 'deep/val/grace_hopper.jpg', 'one.png', 'two.png']
    assert len(masks()) == 5


def test_a_folder_is_no_image_and_one_that_cannot_be_read_is_named(copy, monkeypatch):
    (copy / 'images/val/more.png').mkdir()
    (copy / 'images/val/more').mkdir()
    assert len(masks()) == 3
    scandir = os.scandir

    def scan(path):
        if str(path).endswith('more'):
            raise PermissionError(13, 'Permission denied', str(path))
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', scan)
    with pytest.raises(ValueError, match=r'folders must be readable .* got 1 that do not: .*images/val/more'):
        masks()


def head(num_classes):
    """A head of some classes."""
    module = torch.nn.Module()
    module.num_classes = num_classes
    return module


@pytest.mark.parametrize('name', ['bbox_head', 'mask_head', 'decode_head', 'auxiliary_head'])
@pytest.mark.parametrize('when', ['train', 'val', 'test'])
def test_heads_of_another_number_of_classes_are_refused(name, when):
    model = torch.nn.Module()
    model.rpn_head, model.semantic_head = head(1), head(183)  # not of the data set's classes
    setattr(model, name, torch.nn.ModuleList([head(2), head(80)]))
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=('a', 'b')))))
    runner = SimpleNamespace(model=model, **{f'{when}_loop': loop})
    check = getattr(CheckClassesHook(), f'before_{when}')
    with pytest.raises(ValueError, match=rf'num_classes of {name}.1 must be 2, as many .*\(a, b\), got 80'):
        check(runner)
    getattr(model, name)[1].num_classes = 2
    check(runner)
    getattr(model, name)[1].num_classes = 80
    loop.dataloader.dataset.metainfo = {}
    check(runner)


@pytest.mark.parametrize('host', ['mmdet', 'mmseg'])
def test_runs_have_the_check(host):
    assert load(f'{host}/{dict(mmdet="htc", mmseg="upernet")[host]}_swinv2_l.py').default_hooks.check_classes.type == (
        'mmswinv2.CheckClassesHook')


def test_photographs_are_not_written_over_anything(photographs, capsys):
    assert make_photographs.main([str(photographs)]) == 2
    assert 'OUT must be a folder that is absent or empty' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_page_as_typed(tmp_path):
    """Each file and command of the page, in order, in a folder that looks like a checkout."""
    for name in 'configs', 'docs', 'tools', 'demos':
        (tmp_path / name).symlink_to(ROOT / name)
    first = dict(PYTHONPATH=ROOT, PATH=Path(sys.executable).parent)
    env = dict(os.environ, **{key: f'{value}{os.pathsep}{os.environ.get(key, "")}' for key, value in first.items()})
    onnx = all(map(is_installed, ('onnx', 'onnxscript', 'onnxruntime')))
    printed = ''
    for name, text in steps(PAGE):
        if name:
            (tmp_path / name).write_text(text)
            continue
        for line in re.sub(r'\\\n\s*', '', text).splitlines():
            begun = time.monotonic()
            code, output = run(['bash', '-c', f'cd {tmp_path} && {line}'], env, timeout=600)
            expected = 0 if onnx or 'export_onnx.py' not in line else 2  # says what to install
            assert code == expected, f'{line}\n{output[-4000:]}'
            print(f'{time.monotonic() - begun:.0f} s: {line}', flush=True)
            printed += output
    for key in 'coco/bbox_mAP', 'coco/segm_mAP', 'mIoU', '| head', '| disc', 'as in the config':
        assert key in printed
    for folder in 'photographs', 'photographs_seg':
        assert len(list((tmp_path / 'work_dirs' / folder / 'pictures').rglob('*.json'))) == 11
