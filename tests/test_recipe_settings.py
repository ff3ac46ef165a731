"""What recipes say: batches, weights to begin with, clipping, heads, windows, validations; and what the tools make of
it."""
import functools
import json
from importlib import import_module

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import METRICS, DefaultScope
from PIL import Image

from helpers.configs import CONFIGS, LEAVES, build, load, read
from mmswinv2.models import SwinTransformerV2

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg]

ALL = [name for name in LEAVES if 'mini' not in name]
# test_classification.py and test_recognition.py have the others
RECIPES = [name for name in ALL if not name.startswith(('mmpretrain/', 'mmaction2/'))]
UNNAMED = ('_g', '_h')  # no weights of these were released
HARDWARE = 8  # GPUs of a node


def of(*parts):
    return [name for name in RECIPES if any(part in name for part in parts)]


@pytest.mark.parametrize('name', ALL)
def test_a_node_trains_with_the_batch_that_the_rate_is_for(name):
    cfg = read(name)
    images, counts = cfg.train_dataloader.batch_size, cfg.optim_wrapper.get('accumulative_counts', 1)
    gpus = 1 if 'own-data' in name else HARDWARE
    assert gpus * images * counts == cfg.auto_scale_lr.base_batch_size
    assert cfg.auto_scale_lr.enable is False
    assert cfg.default_hooks.batch_size.type == 'mmswinv2.BatchSizeHook'


@pytest.mark.parametrize('name', RECIPES)
def test_weights_are_named_or_have_to_be(name):
    cfg = read(name)
    begin = cfg.model.backbone.init_cfg
    if 'objects365-pre' in name:
        assert begin is None and cfg.load_from.endswith('iter_67500.pth')
    else:
        assert begin.type == 'Pretrained'
        assert (begin.checkpoint is None) == any(part in name for part in UNNAMED)


@pytest.mark.parametrize('host', ['mmdet', 'mmseg'])
def test_only_the_demo_begins_with_random_weights(host):
    mini = next(name for name in LEAVES if name.startswith(host) and 'mini' in name)
    assert Config.fromfile(CONFIGS / mini).model.backbone.init_cfg is None


def test_weights_that_are_not_named_are_an_error_in_training():
    asks = dict(type='Pretrained', checkpoint=None)
    arch = dict(embed_dims=8, depths=[1, 1], num_heads=[1, 2])
    net = SwinTransformerV2(arch, window_size=4, out_indices=(0, 1), init_cfg=asks)
    assert len(net(torch.zeros(1, 3, 32, 32))) == 2  # as for a test
    with pytest.raises(ValueError, match='init_cfg.checkpoint must name the weights to begin with, a file or URL, got '
                                         'None.*model.backbone.init_cfg.checkpoint=FILE, or model.backbone.init_cfg='):
        net.init_weights()
    with pytest.raises(ValueError, match='init_cfg must be'):
        SwinTransformerV2(arch, window_size=4, out_indices=(0, 1), init_cfg=dict(type='Pretrained'))


def test_random_weights_are_said(monkeypatch):
    said = []
    monkeypatch.setattr('mmswinv2.models.swin_transformer_v2.print_log', lambda text, logger: said.append(text))
    arch = dict(embed_dims=8, depths=[1, 1], num_heads=[1, 2])
    SwinTransformerV2(arch, window_size=4, out_indices=(0, 1)).init_weights()
    assert 'random weights (init_cfg=None)' in said[0] and len(said) == 1


@pytest.mark.parametrize('option, begin', [
    ('model.backbone.init_cfg.checkpoint=a.pth', dict(type='Pretrained', checkpoint='a.pth')),
    ('model.backbone.init_cfg=None', None)])
def test_the_command_line_names_weights(option, begin):
    from argparse import ArgumentParser

    from mmengine.config import DictAction
    parser = ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    cfg = Config.fromfile(CONFIGS / 'mmdet' / 'htc_swinv2_g.py')
    cfg.merge_from_dict(parser.parse_args(['--cfg-options', option]).cfg_options)
    assert cfg.model.backbone.init_cfg == begin


@pytest.mark.parametrize('name', of('mmdet/htc'))
def test_box_heads_are_those_of_public_htc_pp(name):
    for head in read(name).model.roi_head.bbox_head:
        assert (head.type, head.num_shared_convs, head.num_shared_fcs) == ('ConvFCBBoxHead', 4, 1)
        assert (head.norm_cfg.type, head.loss_bbox.type, head.loss_bbox.loss_weight) == ('SyncBN', 'GIoULoss', 10.)
        assert head.reg_decoded_bbox and head.reg_class_agnostic


LARGE = of('_h', '_g')
BACKBONE, WRAPPER = 'model.backbone.', 'optim_wrapper.'
SETTINGS = [
    # drop path and decay of what the paper does not have
    (of('_h'), {BACKBONE + 'drop_path_rate': .3,
                WRAPPER + 'paramwise_cfg': dict(backbone_lr_mult=1., layer_decay_rate=.85)}),
    (of('_g'), {BACKBONE + 'drop_path_rate': .4, WRAPPER + 'paramwise_cfg.layer_decay_rate': 1.}),
    # large models clip, and make no copy of the parameters at the step
    (LARGE, {WRAPPER + 'clip_grad': dict(max_norm=1.), WRAPPER + 'optimizer.fused': True}),
    (of('own-data'), {WRAPPER + 'clip_grad': dict(max_norm=1.), WRAPPER + 'optimizer.fused': None}),
    ([name for name in of('htc', 'cascade', 'upernet') if name not in (*LARGE, *of('own-data'))],
     {WRAPPER + 'clip_grad': None, WRAPPER + 'optimizer.fused': None}),
    # large models are sharded, and in bfloat16
    (LARGE, {'strategy.type': 'mmswinv2.FSDPStrategy'}),
    ([*LARGE, *of('htc_swinv2_b', 'htc_swinv2_l', 'upernet_swinv2_b', 'upernet_swinv2_l', 'mask2former', 'dino')],
     {BACKBONE + 'autocast_dtype': 'bfloat16'}),
    # weights of 256 px and window 8 have 8 in each stage: the map of the last is 8 x 8
    (of('t_w16', 't_w32', '512'), {BACKBONE + 'pretrained_window_sizes': [8] * 4}),
    (of('objects365.py'), {'train_cfg.val_interval': 67500, 'train_cfg.max_iters': 67500}),
]


@pytest.mark.parametrize('name, key, value', [
    (name, key, value) for names, settings in SETTINGS for name in names for key, value in settings.items()])
def test_settings(name, key, value):
    assert functools.reduce(lambda config, part: config.get(part), key.split('.'), read(name)) == value


@pytest.mark.parametrize('name', of('t_w16', 't_w32', '512'))
def test_windows_of_table_1_are_those_of_all_stages(name):
    assert len(set(read(name).model.backbone.window_size)) == 1


@pytest.mark.parametrize('dtype', [None, 'bfloat16', 'float16'])
def test_one_switch_is_for_the_backbone_and_its_global_attention(dtype):
    cfg = load('mmdet/htc_swinv2_l.py')
    cfg.model.backbone.autocast_dtype = dtype
    model = build(cfg)
    assert model.neck[0].autocast_dtype == model.backbone.autocast_dtype == (dtype and getattr(torch, dtype))
    cfg.model.neck.autocast_dtype = None
    assert build(cfg).neck[0].autocast_dtype is None


@pytest.mark.parametrize('name', RECIPES)
def test_validations_are_logged_where_they_are(name):
    """By iteration where training is by iteration: mmengine's loop stays at epoch 0 there."""
    cfg = read(name)
    by_iteration = 'IterBased' in cfg.train_cfg.type
    assert cfg.log_processor.by_epoch is not by_iteration
    assert cfg.default_hooks.logger.get('log_metric_by_epoch', True) is not by_iteration
    assert cfg.default_hooks.checkpoint.get('by_epoch', True) is not by_iteration


@functools.cache
def values(scope, evaluator, folder):
    """What a validation gives, of one image with one object out of two classes, found."""
    box, mask = [[5., 5, 9, 9]], torch.zeros(1, 40, 60, dtype=torch.bool)
    mask[:, 5:9, 5:9] = True
    (folder / 'a.json').write_text(json.dumps(dict(
        images=[dict(id=7, height=40, width=60)], info={},
        categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
        annotations=[dict(id=n, image_id=7, category_id=n, bbox=[5, 5, 4, 4], area=16, iscrowd=0,
                          segmentation=[[5, 5, 9, 5, 9, 9, 5, 9]]) for n in (1, 2)])))
    found = dict(bboxes=torch.tensor(box), scores=torch.tensor([.9]), labels=torch.tensor([0]), masks=mask)
    labels = dict(data=mask.long())
    import_module(f'{scope}.evaluation')
    with DefaultScope.overwrite_default_scope(scope):
        metric = METRICS.build(eval(evaluator) | (dict(ann_file=str(folder / 'a.json')) if scope == 'mmdet' else {}))
    metric.dataset_meta = dict(classes=('cat', 'dog'))
    metric.process({}, [dict(img_id=7, ori_shape=(40, 60), pred_instances=found, pred_sem_seg=labels, gt_sem_seg=labels,
                             pred_score=torch.tensor([.9, .1, 0, 0, 0, 0]), gt_label=torch.tensor([0]))])
    return metric.evaluate(1)


@pytest.mark.parametrize('name', [name for name in ALL if not any(
    part in name for part in ('simmim_swinv2', 'panoptic'))])  # panoptic: two metrics, of which one reads PNGs
def test_the_best_is_of_a_value_that_the_validation_gives(name, tmp_path_factory):
    cfg = read(name)
    found = values(cfg.default_scope, repr(cfg.val_evaluator.to_dict()), tmp_path_factory.getbasetemp())
    best = cfg.default_hooks.checkpoint.save_best
    assert found[best] == {'mmdet': .5, 'mmseg': 100., 'mmpretrain': 100., 'mmaction': 1.}[cfg.default_scope]


@pytest.mark.parametrize('size', 'lg')
def test_test_dev_writes_what_the_server_takes(size, tmp_path, monkeypatch):
    """No annotations are there; boxes and masks come out as two files."""
    name = f'mmdet/htc_swinv2_{size}_w48_test-dev.py'
    cfg, base = load(name), load(f'mmdet/htc_swinv2_{size}.py')
    assert cfg.model.backbone.window_size == [48, 48, 48, 24] and cfg.val_dataloader == base.val_dataloader
    assert dict(cfg.model, backbone=None) == dict(base.model, backbone=None)
    assert cfg.test_dataloader.dataset.data_prefix.img == 'test2017/'
    ann = tmp_path / cfg.test_evaluator.ann_file
    assert cfg.test_evaluator.ann_file == cfg.data_root + cfg.test_dataloader.dataset.ann_file
    ann.parent.mkdir(parents=True)
    ann.write_text(json.dumps(dict(images=[dict(id=7, file_name='a.jpg', height=40, width=60)],
                                   categories=[dict(id=1, name='person')], info={}, licenses=[])))
    (tmp_path / 'data/coco/test2017').mkdir()
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / 'data/coco/test2017/a.jpg')
    monkeypatch.chdir(tmp_path)
    with DefaultScope.overwrite_default_scope('mmdet'):
        from mmdet.registry import DATASETS, METRICS
        data = DATASETS.build(cfg.test_dataloader.dataset)
        assert len(data) == 1 and data[0]['inputs'].shape[0] == 3
        metric = METRICS.build(cfg.test_evaluator)
        metric.dataset_meta = dict(classes=('person',))
        masks = torch.zeros(1, 40, 60, dtype=torch.bool)
        masks[:, 5:9, 5:9] = True
        instances = dict(bboxes=torch.tensor([[5., 5, 9, 9]]), scores=torch.tensor([.9]), labels=torch.tensor([0]),
                         masks=masks)
        metric.process({}, [dict(img_id=7, ori_shape=(40, 60), pred_instances=instances)])
        metric.evaluate(1)
    for kind, key in ('bbox', 'bbox'), ('segm', 'segmentation'):
        found, = json.loads((tmp_path / f'work_dirs/htc_swinv2_{size}_test-dev.{kind}.json').read_text())
        assert found['image_id'] == 7 and found['category_id'] == 1 and key in found
