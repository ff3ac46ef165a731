"""Recipes on Mask2Former and DINO of the hosts, with reduced widths: one training and one test step."""
import copy

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from PIL import Image

import predict
from helpers.configs import LEAVES, build, load
from helpers.detection import batch, collate, image, sample, view

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg]

NAMES = [name for name in LEAVES if 'mask2former' in name or 'dino' in name]
DIMS = [8, 16, 32, 64]


def small(cfg):
    """A small backbone, and one layer of each transformer."""
    model = cfg.model
    model.backbone.update(arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8]), init_cfg=None)
    model.data_preprocessor.batch_augments = None
    head = model.get('panoptic_head', model.get('decode_head'))
    if head is None:
        model.neck.in_channels = DIMS
        model.encoder.num_layers = model.decoder.num_layers = 1
        model.num_queries = 20
    else:
        head.in_channels = DIMS
        head.pixel_decoder.encoder.num_layers = head.transformer_decoder.num_layers = 1
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        built = MODELS.build(copy.deepcopy(model))  # which a detector changes
        built.init_weights()  # DINO's embedding of levels is what was in memory before
        return built


def data(model, name):
    one = sample(64, 96, [[10, 10, 60, 50], [30, 20, 90, 60]], [0, 1])
    if name.startswith('mmseg'):
        from mmseg.structures import SegDataSample
        one = SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 150, (1, 64, 96))), metainfo=one.metainfo)
    elif 'panoptic' in name:
        one.gt_sem_seg = PixelData(sem_seg=torch.randint(80, 133, (1, 64, 96)))
    given = batch(one)
    return model.data_preprocessor(given, True) if name.startswith('mmdet') else dict(
        inputs=torch.randn(1, 3, 64, 96), data_samples=given['data_samples'])


@pytest.mark.parametrize('name', NAMES)
def test_one_training_and_one_test_step(name):
    cfg = load(name)
    model = small(cfg).train()
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        optim = build_optim_wrapper(model, cfg.optim_wrapper)
    rates = {id(p): group['lr'] for group in optim.optimizer.param_groups for p in group['params']}
    lr = cfg.optim_wrapper.optimizer.lr
    for n, p in model.named_parameters():
        assert rates[id(p)] == pytest.approx(lr * (.1 if n.startswith('backbone.') else 1)), n
    given = data(model, name)
    total, logged = model.parse_losses(model.loss(given['inputs'], given['data_samples']))
    assert all(v.isfinite().all() for v in logged.values())
    total.backward()
    unused = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not unused
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        results = model.eval().predict(given['inputs'], given['data_samples'])
    pred = results[0].pred_sem_seg.data if name.startswith('mmseg') else results[0].pred_instances.scores
    assert pred.isfinite().all()


@pytest.mark.parametrize('name', NAMES)
def test_builds_at_full_size(name):
    cfg = load(name)
    model = build(cfg)
    assert sum(p.numel() for p in model.backbone.parameters()) > 80e6
    assert cfg.model.backbone.window_size[0] == 2 * cfg.model.backbone.window_size[3]


@pytest.mark.parametrize('name', [name for name in NAMES if '_b.py' in name or 'dino' in name])
def test_pictures_and_flips(name, tmp_path, capsys):
    """Drawn by predict.py, and by the test-time augmentation that mmdet's tool takes where a config has none."""
    cfg = load(name)
    classes = dict(classes=[str(i) for i in range(150)], palette=[(i, i, i) for i in range(150)])
    torch.save(dict(state_dict=small(cfg).state_dict(), meta=dict(dataset_meta=classes)), tmp_path / 'a.pth')
    pipeline = cfg.test_dataloader.dataset.pipeline
    pipeline[1].scale = (96, 64)
    cfg.dump(tmp_path / 'a.py')
    Image.fromarray(np.full((64, 96, 3), 90, np.uint8)).save(tmp_path / 'a.png')
    args = [str(tmp_path / 'a.py'), str(tmp_path / 'a.pth'), str(tmp_path / 'a.png'), '--out', str(tmp_path / 'out')]
    assert predict.main([*args, '--score', '0', '--device', 'cpu']) == 0, capsys.readouterr()
    assert Image.open(tmp_path / 'out' / 'a.png.png').size >= (96, 64)
    if 'dino' in name:
        from mmdet.registry import MODELS as DET
        with DefaultScope.overwrite_default_scope('mmdet'):
            tta = DET.build(dict(type='DetTTAModel', module=small(load(name)).eval(), tta_cfg=ConfigDict(
                nms=dict(type='nms', iou_threshold=.5), max_per_img=10)))
        result, = tta.test_step(collate([view(image()), view(image(), flip='horizontal')]))
        assert result.pred_instances.scores.isfinite().all()
