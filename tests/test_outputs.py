"""No parameter is unused under heads that take some of the outputs, as DistributedDataParallel requires."""
from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope

from helpers.configs import register
from helpers.detection import batch, sample

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg]

DIMS = [8, 16, 32, 64]


def small(host, name, out_indices, **changes):
    """The model of a host's config, with a small SwinV2 that has these outputs and other channels."""
    register(host)
    cfg = Config.fromfile(Path(import_module(host).__file__).parent / '.mim' / 'configs' / name)
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()}, allow_list_keys=True)
    cfg.model.pop('pretrained', None)
    cfg.model.backbone = dict(
        type='mmswinv2.SwinTransformerV2', window_size=4, out_indices=out_indices,
        arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8]))
    with DefaultScope.overwrite_default_scope(host):
        return revert_sync_batchnorm(import_module(f'{host}.registry').MODELS.build(cfg.model)).train()


def check(model, losses):
    total, _ = model.parse_losses(losses)
    total.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert len(model.backbone.layers) == max(model.backbone.out_indices) + 1


@pytest.mark.parametrize('name, neck', [
    ('swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py', {}),
    ('atss/atss_r50_fpn_1x_coco.py', {'neck.start_level': 0}),
    ('atss/atss_r50_fpn_1x_coco.py', {'neck.start_level': 0, 'out_indices': (0, 1, 2)}),
])
def test_detectors(name, neck):
    neck = dict(neck)
    outs = neck.pop('out_indices', (1, 2, 3))
    model = small('mmdet', name, outs, **{'neck.in_channels': [DIMS[i] for i in outs]}, **neck)
    data = model.data_preprocessor(batch(sample(96, 96, [[8, 8, 70, 70], [20, 20, 90, 50]], [0, 1])), True)
    check(model, model(**data, mode='loss'))


@pytest.mark.parametrize('name, outs, heads', [
    ('deeplabv3plus_r50-d8', (0, 2, 3), {
        'decode_head.c1_in_channels': 8, 'decode_head.in_channels': 64, 'decode_head.in_index': 2,
        'auxiliary_head.in_index': 1, 'auxiliary_head.in_channels': 32}),
    ('pspnet_r50-d8', (2, 3), {
        'decode_head.in_channels': 64, 'decode_head.in_index': 1, 'auxiliary_head.in_index': 0,
        'auxiliary_head.in_channels': 32}),
    ('ocrnet_r50-d8', (3,), {f'decode_head.{i}.{key}': value for i in (0, 1)
                             for key, value in (('in_channels', 64), ('in_index', 0))}),  # of one size
])
def test_segmentors(name, outs, heads):
    model = small('mmseg', f'_base_/models/{name}.py', outs, **heads)
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 19, (1, 64, 64)))) for _ in range(2)]
    check(model, model.loss(torch.randn(2, 3, 64, 64), samples))
