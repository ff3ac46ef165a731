"""``tools/prepare_data.py``: one scene in four formats, its division and its masks, what does not fit, and training."""
import base64
import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

import prepare_data
from annotations import Annotated
from helpers.configs import register
from helpers.docs import commands
from helpers.runs import environment, run

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg]

ROOT = Path(__file__).parents[1]
CLASSES = ['cat', 'dog']
# by image: its size, and objects: the class and a polygon in whole pixels; the last has none
SCENE = {
    'a.png': ((80, 60), [('cat', [(10, 10), (50, 10), (50, 50), (10, 50)]), ('dog', [(20, 20), (30, 20), (20, 40)])]),
    'b.jpg': ((60, 80), [('dog', [(0, 0), (60, 0), (60, 40), (0, 80)])]),
    'c.png': ((64, 48), [('cat', [(8, 8), (24, 8), (24, 40)])]),
    'd.png': ((90, 40), [('dog', [(40, 4), (88, 4), (64, 36)])]),
    'e.png': ((50, 50), []),
}




def box(points):
    """The corners of a polygon."""
    xs, ys = zip(*points)
    return min(xs), min(ys), max(xs), max(ys)


def area(points):
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1]))) / 2


def save_images(folder):
    folder.mkdir(parents=True)
    for number, (name, (size, _)) in enumerate(SCENE.items()):
        Image.new('RGB', size, (40 * number, 90, 120)).save(folder / name)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def labelme(src, polygons):
    """The scene as labelme writes it; returns what is SRC."""
    save_images(src)
    for name, ((width, height), objects) in SCENE.items():
        shapes = [dict(label=label, group_id=None, flags={}, shape_type='polygon' if polygons else 'rectangle',
                       points=points if polygons else [box(points)[2:], box(points)[:2]]) for label, points in objects]
        write((src / name).with_suffix('.json'), dict(
            version='5.0.1', imagePath=name, imageData=None, imageWidth=width, imageHeight=height, shapes=shapes))
    return src


def coco(src, polygons):
    """The scene as one file, with images elsewhere and ids that begin anywhere."""
    save_images(src / 'deep' / 'images')
    images, annotations = [], []
    for number, (name, ((width, height), objects)) in enumerate(SCENE.items()):
        images.append(dict(id=number, file_name=name, width=width, height=height))
        for label, points in objects:
            left, top, right, bottom = box(points)
            w, h = right - left, bottom - top
            annotations.append(dict(
                id=70 + len(annotations), image_id=number, category_id=3 + 2 * CLASSES.index(label),
                bbox=[left, top, w, h], area=area(points) if polygons else w * h,
                segmentation=[sum(points, ())] if polygons else []))
    write(src / 'all.json', dict(images=images, annotations=annotations,
                                 categories=[dict(id=3, name='cat'), dict(id=5, name='dog')]))
    return src / 'all.json'


def voc(src, polygons=False):
    """The boxes of the scene, corners inside and from 1."""
    save_images(src / 'JPEGImages')
    for name, ((width, height), objects) in SCENE.items():
        found = ''
        for label, points in objects:
            left, top, right, bottom = box(points)
            found += (f'<object><name>{label}</name><difficult>0</difficult><bndbox><xmin>{left + 1}</xmin><ymin>'
                      f'{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>')
        write((src / 'Annotations' / name).with_suffix('.xml'),
              f'<annotation><filename>{name}</filename><size><width>{width}</width><height>{height}</height>'
              f'<depth>3</depth></size>{found}</annotation>')
    return src


def yolo(src, polygons):
    """The scene in widths and heights; the last image has no file."""
    save_images(src / 'images' / 'all')
    write(src / 'data.yaml', yaml.safe_dump(dict(names=dict(enumerate(CLASSES)), nc=2)))
    for name, ((width, height), objects) in SCENE.items():
        lines = []
        for label, points in objects:
            left, top, right, bottom = box(points)
            numbers = sum(points, ()) if polygons else (
                (left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
            lines.append(' '.join(f'{n / (height if i % 2 else width):.6f}' for i, n in enumerate(numbers)))
            lines[-1] = f'{CLASSES.index(label)} {lines[-1]}'
        if objects:
            write((src / 'labels' / 'all' / name).with_suffix('.txt'), '\n'.join(lines) + '\n')
    return src


FORMATS = dict(labelme=labelme, coco=coco, voc=voc, yolo=yolo)


def prepare(kind, src, dst, *options):
    return prepare_data.main([kind, str(src), str(dst), '--val', '.4', *map(str, options)])


def read(dst, split):
    return json.loads((dst / f'{split}.json').read_text())


def flat(coco):
    """A file in COCO's format with its numbers as one list, and the rest."""
    numbers = [n for a in coco['annotations'] for n in (
        *a['bbox'], a['area'], *sum(a.get('segmentation', []), []))]
    rest = [{key: a[key] for key in ('id', 'image_id', 'category_id', 'iscrowd')} for a in coco['annotations']]
    return numbers, (coco['images'], coco['categories'], rest)


@pytest.mark.parametrize('kind, polygons', [
    ('labelme', True), ('coco', True), ('yolo', True), ('labelme', False), ('coco', False), ('voc', False),
    ('yolo', False)])
def test_a_scene_is_the_same_from_each_format(kind, polygons, tmp_path):
    dst = tmp_path / 'out'
    assert prepare(kind, FORMATS[kind](tmp_path / 'src', polygons), dst) == 0
    found = {split: read(dst, split) for split in ('train', 'val')}
    assert [len(part['images']) for part in found.values()] == [3, 2]
    assert (dst / ('instances.py' if polygons else 'boxes.py')).is_file() and not (dst / 'masks').exists()
    for split, part in found.items():
        expected = dict(images=[], annotations=[], categories=[dict(id=1, name='cat'), dict(id=2, name='dog')])
        for number, name in enumerate((image['file_name'] for image in part['images']), start=1):
            (width, height), objects = SCENE[name]
            expected['images'].append(dict(id=number, file_name=name, width=width, height=height))
            assert Image.open(dst / 'images' / split / name).size == (width, height)
            for label, points in objects:
                left, top, right, bottom = box(points)
                w, h = right - left, bottom - top
                expected['annotations'].append(dict(
                    id=len(expected['annotations']) + 1, image_id=number, category_id=CLASSES.index(label) + 1,
                    iscrowd=0, bbox=[left, top, w, h], area=area(points) if polygons else w * h,
                    **(dict(segmentation=[sum(map(list, points), [])]) if polygons else {})))
        numbers, rest = flat(part)
        wanted, rest_wanted = flat(expected)
        assert rest == rest_wanted
        np.testing.assert_allclose(numbers, wanted, atol=1e-4 if kind == 'yolo' else 0, rtol=1e-4 * (kind == 'yolo'))
        assert {a['category_id'] for a in part['annotations']} == {1, 2}  # each class in both parts
    assert len(list((dst / 'look').glob('*.jpg'))) == 4


@pytest.mark.parametrize('command', [c for c in commands(Path('docs/own_data.md')) if 'prepare_data' in c.text],
                         ids=lambda c: c.words[2])
def test_the_page_as_typed(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    src = FORMATS[command.words[2]](tmp_path / 'src', False)
    names = dict.fromkeys(('FOLDER', 'FILE.json'), str(src))
    assert prepare_data.main([names.get(word, word) for word in command.words[2:]]) == 0
    assert Path('data/mine/boxes.py').is_file()


def samples(config):
    """What training and validation read, by the file's own pipelines."""
    cfg = Config.fromfile(config)
    register(cfg.default_scope)
    np.random.seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        parts = [DATASETS.build(loader.dataset) for loader in (cfg.train_dataloader, cfg.val_dataloader)]
    return cfg, parts, [[data[i] for i in range(len(data))] for data in parts]


@pytest.mark.parametrize('polygons', [True, False])
def test_a_config_reads_what_was_written(polygons, tmp_path, monkeypatch):
    """From any working directory; images without objects are trained on."""
    monkeypatch.chdir(tmp_path)
    assert prepare('labelme', labelme(tmp_path / 'src', polygons), Path('out')) == 0
    monkeypatch.chdir('/')
    cfg, (train, val), read_samples = samples(tmp_path / 'out' / ('instances.py' if polygons else 'boxes.py'))
    assert train.metainfo['classes'] == ('cat', 'dog') and len(train) == 3 and len(val) == 2
    assert cfg.model.roi_head.num_classes == 2 and Path(cfg.val_evaluator.ann_file) == tmp_path / 'out' / 'val.json'
    assert ('mask_head' in cfg.model.roi_head and cfg.model.roi_head.mask_head is not None) == polygons
    for part in read_samples:
        found = [sample['data_samples'].gt_instances for sample in part]
        assert {label for instances in found for label in instances.labels.tolist()} <= {0, 1}
        assert all(('masks' in instances) == polygons for instances in found)
    if polygons:
        masks = {Path(val.get_data_info(i)['img_path']).name: sample['data_samples'].gt_instances.masks.areas
                 for i, sample in enumerate(read_samples[1])}
        assert masks and all(len(areas) == len(SCENE[name][1]) for name, areas in masks.items())


def test_masks_have_smaller_objects_on_top(tmp_path, capsys):
    assert prepare('labelme', labelme(tmp_path / 'src', True), tmp_path / 'out', '--masks') == 0
    assert 'the smaller one is on top' in capsys.readouterr().out
    masks = {path.stem: np.asarray(Image.open(path)) for path in (tmp_path / 'out' / 'masks').rglob('*.png')}
    assert sorted(masks) == list('abcde') and not masks['e'].any()
    assert masks['a'][45, 12] == 1 and masks['a'][25, 22] == 2 and masks['a'][5, 5] == 0  # a dog on a cat
    for name, ((width, height), objects) in SCENE.items():
        assert masks[name[0]].shape == (height, width)
    assert (masks['b'] == 2).sum() == pytest.approx(area(SCENE['b.jpg'][1][0][1]), rel=.05)
    cfg, parts, read_samples = samples(tmp_path / 'out' / 'segmentation.py')
    assert parts[0].metainfo['classes'] == ('background', 'cat', 'dog') and cfg.model.decode_head.num_classes == 3
    labels = [set(sample['data_samples'].gt_sem_seg.data.unique().tolist()) for sample in read_samples[1]]
    assert set.union(*labels) == {0, 1, 2}


def test_shapes_of_labelme(tmp_path):
    """A circle is a polygon, a group is one object, and an image may be in the file."""
    src = labelme(tmp_path / 'src', True)
    (src / 'a.png').rename(tmp_path / 'elsewhere.png')
    content = json.loads((src / 'a.json').read_text())
    parts = [[(2, 2), (12, 2), (2, 12)], [(60, 40), (78, 40), (60, 58)]]
    content.update(
        imageData=base64.b64encode((tmp_path / 'elsewhere.png').read_bytes()).decode(), imagePath='..\\img\\a.png',
        shapes=[dict(label='cat', points=[[40, 30], [40, 10]], shape_type='circle'),
                *(dict(label='cat', points=points, shape_type='polygon', group_id=7) for points in parts)])
    write(src / 'a.json', content)
    assert prepare('labelme', src, tmp_path / 'out') == 0
    both = [read(tmp_path / 'out', split) for split in ('train', 'val')]
    found, = [[a for a in part['annotations'] if a['image_id'] == image['id']]
              for part in both for image in part['images'] if image['file_name'] == 'a.png']
    assert found[0]['bbox'] == pytest.approx([20, 10, 40, 40], abs=.1) and found[1]['bbox'] == [2, 2, 76, 56]
    assert found[0]['area'] == pytest.approx(np.pi * 20**2, rel=.01) and found[1]['area'] == 50 + 162
    assert found[1]['segmentation'] == [sum(map(list, points), []) for points in parts]


def test_images_of_one_name_get_names_of_their_own(tmp_path):
    for part in 'one', 'two':
        labelme(tmp_path / 'src' / part, True)
    Image.open(tmp_path / 'src/one/c.png').save(tmp_path / 'src/one/c.jpg')  # differs in the suffix alone
    write(tmp_path / 'src/one/c2.json', json.loads((tmp_path / 'src/one/c.json').read_text()) | dict(imagePath='c.jpg'))
    assert prepare('labelme', tmp_path / 'src', tmp_path / 'out', '--masks', '--link') == 0
    images = list((tmp_path / 'out' / 'images').rglob('*.*'))
    assert sorted(path.name for path in images) == sorted(
        [*SCENE, 'one_c.jpg', *(f'two_{name}' for name in SCENE)])
    assert all(path.is_symlink() and path.stat().st_size for path in images)


def image_of(*classes):
    return Annotated(Path(), Path(), (9, 9), [dict(category=name) for name in classes])


def test_images_are_found_by_their_folders_and_not_in_what_was_written(tmp_path):
    """``two/c.png`` lies deeper than the file; links of an earlier run are not images of the source."""
    src = coco(tmp_path / 'src', True)
    for name in 'one', 'two':
        (tmp_path / 'src' / 'deep' / name).mkdir()
        shutil.copy(tmp_path / 'src' / 'deep' / 'images' / 'c.png', tmp_path / 'src' / 'deep' / name)
    edit(src, lambda c: c['images'][2].update(file_name='two\\c.png'))
    for _ in range(2):
        assert prepare('coco', src, tmp_path / 'src' / 'out', '--link', '--overwrite') == 0
    links = {path.name: path.resolve() for path in (tmp_path / 'src' / 'out' / 'images').rglob('*.*')}
    assert links['c.png'] == tmp_path / 'src' / 'deep' / 'two' / 'c.png' and len(links) == 5


def test_the_division_is_by_the_seed():
    images = [image_of('cat') for _ in range(20)]
    parts = [prepare_data.divide(images, .3, seed) for seed in (0, 0, 1)]
    chosen = [{id(image) for image in part['val']} for part in parts]
    assert [len(part['val']) for part in parts] == [6] * 3 and chosen[0] == chosen[1] != chosen[2]


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('images, share', [
    ([('a', )] * 30 + [('a', 'rare')] * 2 + [()] * 5, .1), ([('a', 'b'), ('a', 'b'), ('b', 'c'), ('c', )], .2),
    ([(name, ) for name in 'abcdef'] * 2, .1), ([('a', )] * 2 + [(f'once{i}', ) for i in range(9)], .5)])
def test_each_class_is_in_both_parts(images, share, seed):
    images = [image_of(*classes) for classes in images]
    found = {split: Counter(o['category'] for image in part for o in image.objects)
             for split, part in prepare_data.divide(images, share, seed).items()}
    assert set(found['val']) == {name for name in found['train'] if 'once' not in name}


def test_classes_that_are_in_one_image_each_are_divided_all_the_same():
    parts = prepare_data.divide([image_of(), image_of('a'), image_of('b')], .2, 0)
    assert sum(bool(image.objects) for image in parts['train']) == sum(bool(i.objects) for i in parts['val']) == 1


def test_another_run_replaces_what_the_first_wrote(tmp_path, capsys):
    src, dst = labelme(tmp_path / 'src', True), tmp_path / 'src' / 'out'
    dst.mkdir()
    write(dst / 'notes.txt', 'mine')
    assert prepare('labelme', src, dst) == 1 and 'DST must be absent or empty' in capsys.readouterr().err
    assert prepare('labelme', src, dst, '--overwrite', '--masks') == 0
    assert prepare('labelme', src, dst, '--overwrite') == 0  # what it wrote is not read
    assert {path.name for path in dst.iterdir()} == {
        'images', 'look', 'train.json', 'val.json', 'instances.py', 'notes.txt'}
    assert prepare('labelme', src, src, '--overwrite') == 1
    assert 'DST must be neither the folder of the images nor above it' in capsys.readouterr().err
    assert len(list(src.glob('*.png'))) == 4


def edit(path, change):
    """Changes a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    write(path, content)


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def turn(path):
    """Gives an image an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)


def twice(src):
    (src / 'a.json').rename(src / 'z.json')
    shutil.copy(src / 'z.json', src / 'a.json')


ERRORS = {  # what is done to SRC, and what is said; options
    'labelme': {
        'missing': (lambda src: (src / 'c.png').unlink(),
                    r"c.json must name one image in \S+src or below, got 'c.png', found none"),
        'unreadable': (lambda src: (src / 'c.png').write_bytes(b'no'), r'c.png must be an image, got Unidentified'),
        'another size': (lambda src: edit(src / 'c.json', lambda c: c.update(imageWidth=65)),
                         r'width and height must be those of the image, .*c.png is 64 x 48 px, not 65 x 48 as in \S+$'),
        'as stored': (lambda src: turn(src / 'b.jpg'),
                      r'b.jpg is 80 x 60 px, not 60 x 80 as in .*b.json \(its size as stored: .* EXIF orientation'),
        'two points': (lambda src: edit(src / 'c.json', lambda c: c['shapes'][0]['points'].pop()),
                       "c.json: a shape must be a polygon of three points .*got shape 1, 'cat': polygon of 2"),
        'a line': (lambda src: edit(src / 'c.json', lambda c: c['shapes'][0].update(shape_type='line')),
                   "got shape 1, 'cat': line of 3"),
        'no name': (lambda src: edit(src / 'c.json', lambda c: c['shapes'][0].update(label='')),
                    'classes must be a list of names'),
        'outside': (lambda src: edit(src / 'c.json', lambda c: c['shapes'][0]['points'].append((99, 9))),
                    'src: a bbox must be in its image but for a pixel .*: annotation 1 of .*c.png has'),
        'no area': (lambda src: edit(src / 'c.json', lambda c: c['shapes'][0].update(points=[(1, 1), (5, 5), (9, 9)])),
                    'area must be a finite number > 0'),
        'not JSON': (lambda src: write(src / 'c.json', '{'), "c.json must be a file of labelme's, got JSONDecodeError"),
        'not of labelme': (lambda src: write(src / 'c.json', '[]'), "must be a file of labelme's, got TypeError"),
        'two files': (twice, r'an image must be annotated once, got 1 that do not: \S+a.png$'),
        'empty': (lambda src: [path.unlink() for path in src.glob('*.json')], r'src must have files \*.json in it'),
        'one annotated': (lambda src: [edit(path, lambda c: c.update(shapes=[])) for path in src.glob('[a-c].json')],
                          'src: two images must have objects, .*got 1 of 5 images'),
        'no image data': (lambda src: edit(src / 'c.json', lambda c: c.update(imageData='aaaa', imagePath='no.png')),
                          "c.json must be a file of labelme's with an image in imageData"),
        'no folder': (shutil.rmtree, 'SRC must be a folder, got'),
        'rectangles': (lambda src: edit(src / 'c.json', lambda c: c['shapes'][0].update(
            shape_type='rectangle', points=[(1, 1), (9, 9)])), '--masks needs a polygon of each object, got 1 .*c.json',
            '--masks'),
        'background': (lambda src: edit(src / 'c.json', lambda c: c['shapes'][0].update(label='background')),
                       'classes must be different names, got background more than once', '--masks'),
        'a share': (lambda src: None, '--val must be a share of the images, .*got 1.5', '--val', '1.5'),
        'elsewhere': (lambda src: None, '--images must be left out but for coco', '--images', '.'),
    },
    'coco': {
        'missing': (lambda src: (src.parent / 'deep/images/c.png').unlink(),
                    "all.json must name one image in .*, got 'c.png', found none"),
        'two of a name': (lambda src: shutil.copy(src.parent / 'deep/images/c.png', src.parent / 'deep'),
                          r"got 'c.png', found 2: .*deep/c.png, .*deep/images/c.png"),
        'one name': (lambda src: edit(src, lambda c: c['categories'][1].update(name='cat')),
                     'all.json: metainfo.classes must be different names, got cat more than once'),
        'two points': (lambda src: edit(src, lambda c: c['annotations'][1].update(segmentation=[[1, 2, 3, 4]])),
                       'segmentation must have polygons of three points or more, .*annotation 71 of .*a.png'),
        'no category': (lambda src: edit(src, lambda c: c['annotations'][1].update(category_id=8)),
                        'all.json: category_id must be the id of a category, .*annotation 71 has 8'),
        'no list': (lambda src: write(src, []), 'all.json: images must be a list, as in COCO'),
        'a folder': (lambda src: (src.unlink(), src.mkdir()), 'ann_file must be a file in COCO.s format, got .*all'),
    },
    'voc': {
        'missing': (lambda src: (src / 'JPEGImages/c.png').unlink(), "c.xml must name one image in .*, got 'c.png'"),
        'another size': (lambda src: replace(src / 'Annotations/c.xml', '<width>64', '<width>65'),
                         'c.png is 64 x 48 px, not 65 x 48 as in .*c.xml'),
        'no box': (lambda src: replace(src / 'Annotations/c.xml', 'bndbox', 'polygon'),
                   "c.xml must be an annotation in VOC's format, got AttributeError"),
        'not XML': (lambda src: write(src / 'Annotations/c.xml', '{}'), "VOC's format, got ParseError"),
        'backwards': (lambda src: replace(src / 'Annotations/c.xml', '<xmax>24', '<xmax>5'),
                      'sides of a bbox must be >= 1 px, .*annotation 1 of .*c.png has'),
    },
    'yolo': {
        'missing': (lambda src: (src / 'images/all/c.png').unlink(),
                    r'files in labels must have an image of their name in images, got 1 that do not: \S+c.txt$'),
        'no such class': (lambda src: write(src / 'labels/all/c.txt', '0 .5 .5 .2 .2\n\n2 .5 .5 .2 .2\n'),
                          'c.txt, line 3: a class must be 0 to 1, as there are names, got 2'),
        'pixels': (lambda src: write(src / 'labels/all/c.txt', '0 50 50 20 20'), 'c.txt, line 1 must be .*from 0 to 1'),
        'two points': (lambda src: write(src / 'labels/all/c.txt', '0 .1 .1 .2 .2 .3'), 'a polygon, three or more, '),
        'text': (lambda src: write(src / 'labels/all/c.txt', 'cat .1 .1 .2 .2'), 'line 1 must be numbers, got Value'),
        'one name': (lambda src: write(src / 'data.yaml', 'names: [cat, cat]'),
                     'src: metainfo.classes must be different names, got cat more than once'),
        'no names': (lambda src: (src / 'data.yaml').unlink(), 'src must have the names of classes in data.yaml, '),
        'no list': (lambda src: write(src / 'data.yaml', 'path: .'), 'data.yaml must be a file with the names of '),
    },
}


@pytest.mark.parametrize('kind, case', [(kind, case) for kind, cases in ERRORS.items() for case in cases])
def test_what_does_not_fit_is_one_line(kind, case, tmp_path, capsys):
    spoil, message, *options = ERRORS[kind][case]
    src = FORMATS[kind](tmp_path / 'src', True)
    spoil(src)
    assert prepare(kind, src, tmp_path / 'out', *options) == 1
    err = capsys.readouterr().err
    assert re.search(message, err) and err.startswith('prepare_data: ') and err.count('\n') == 1
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('names', [('classes.txt', 'cat\ndog\n'), ('labels/obj.names', 'cat\ndog'),
                                   ('data.yml', 'names: [cat, dog]')])
def test_names_of_yolo_in_other_files(names, tmp_path):
    src = yolo(tmp_path / 'src', False)
    (src / 'data.yaml').unlink()
    write(src / names[0], names[1])
    assert prepare('yolo', src, tmp_path / 'out') == 0
    assert read(tmp_path / 'out', 'val')['categories'] == [dict(id=1, name='cat'), dict(id=2, name='dog')]


def test_objects_with_and_without_polygons(tmp_path, capsys):
    """Train on boxes; a crowd and what VOC calls difficult are crowds."""
    src = coco(tmp_path / 'src', True)
    edit(src, lambda c: (c['annotations'][0].update(iscrowd=1), c['annotations'][1].update(segmentation=[])))
    assert prepare('coco', src, tmp_path / 'out', '--images', tmp_path / 'src' / 'deep') == 0
    assert '1 of 5 objects have no polygon: boxes.py trains on boxes alone' in capsys.readouterr().out
    assert [path.name for path in (tmp_path / 'out').glob('*.py')] == ['boxes.py']
    voc(tmp_path / 'voc')
    replace(tmp_path / 'voc/Annotations/a.xml', '<difficult>0', '<difficult>1')
    (tmp_path / 'voc/Annotations/e.xml').unlink()  # an image that nobody looked at is no image without objects
    assert prepare('voc', tmp_path / 'voc', tmp_path / 'out2') == 0
    assert re.search(r'1 images without a file of annotations are left out: \S+e.png\n', capsys.readouterr().out)
    for dst, number in (tmp_path / 'out', 1), (tmp_path / 'out2', 2):
        assert sum(a['iscrowd'] for split in ('train', 'val') for a in read(dst, split)['annotations']) == number


def test_the_config_of_a_checkout_has_a_relative_base(tmp_path, monkeypatch):
    """The checkout may be moved, with the data in it."""
    monkeypatch.setattr('prepare_data.ROOT', tmp_path / 'before')
    (tmp_path / 'before').mkdir()
    (tmp_path / 'before' / 'configs').symlink_to(ROOT / 'configs')
    src = labelme(tmp_path / 'src', False)
    assert prepare('labelme', src, tmp_path / 'before' / 'data' / 'mine') == 0
    (tmp_path / 'before').rename(tmp_path / 'after')
    cfg, *_ = samples(tmp_path / 'after' / 'data' / 'mine' / 'boxes.py')
    assert cfg.data_root == f'{tmp_path}/after/data/mine/'


MINI = {  # as docs/own_data.md does, and a whole model on small images
    'instances.py': ('mmdet', [('htc_swinv2_t_own-data', 'htc_swinv2_own-data_mini')], ''),
    'segmentation.py': ('mmseg', [('upernet_swinv2_t_own-data', 'upernet_swinv2_own-data_mini')], ''),
    'boxes.py': ('mmdet', [], """
model = dict(backbone=dict(init_cfg=None))
sizes = {name: (128, 128) for name in ('scale', 'crop_size', 'size')}
train_pipeline, test_pipeline = [
    [dict(step, **{name: size for name, size in sizes.items() if name in step}) for step in steps]
    for steps in (_base_.train_pipeline, _base_.test_pipeline)]
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
auto_scale_lr = dict(base_batch_size=2)
"""),
}


@pytest.mark.slow
@pytest.mark.mim
@pytest.mark.parametrize('name', MINI)
def test_it_trains(name, tmp_path):
    """A few iterations and a validation, through mim."""
    host, changes, more = MINI[name]
    options = ['--masks'] if host == 'mmseg' else []
    assert prepare('labelme', labelme(tmp_path / 'src', name != 'boxes.py'), tmp_path / 'out', *options) == 0
    config = tmp_path / 'out' / name
    for old, new in changes:
        replace(config, old, new)
    if more:
        write(config.with_name('small.py'), f'_base_ = {str(config)!r}\n{more}')
        config = config.with_name('small.py')
    mim = [sys.executable, '-c', 'import sys; from mim.__main__ import cli; sys.exit(cli())']
    code, output = run([*mim, 'train', host, str(config), '--work-dir', str(tmp_path / 'work'), '--cfg-options',
                        'train_cfg.max_iters=3', 'train_cfg.val_interval=3'], environment(), timeout=280)
    assert code == 0, output[-6000:]
    assert ('mIoU' if host == 'mmseg' else 'coco/bbox_mAP') in output
    assert ('coco/segm_mAP' in output) == (name == 'instances.py')
