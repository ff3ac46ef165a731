"""The planner's command line, and what it counts of neck and heads."""
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData

import plan_memory
from planner.counting import LiveBytes
from planner.heads import heads_memory

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg]

HTC = 'configs/mmdet/htc_swinv2_mini.py'


def tables(out):
    """The rows of both tables, by name: {name: cells}."""
    parts = out.split('\n\n')
    rows = [[(line[:25].strip(), line[25:].split()) for line in part.splitlines()] for part in parts]
    return [{name: cells for name, cells in part if cells and cells[0].replace('.', '').isdigit()} for part in rows]


def run(capsys, *args):
    assert plan_memory.main(list(args)) == 0
    out = capsys.readouterr().out
    return out.splitlines()[0], *tables(out)


def config(tmp_path, text, *bases):
    path = tmp_path / 'config.py'
    folder = f'{plan_memory.__file__.rpartition("/tools")[0]}/configs/mmdet'
    path.write_text(f'_base_ = {[f"{folder}/{base}.py" for base in bases or ["htc_swinv2_t"]]}\n{text}\n')
    return str(path)


def test_tables(capsys):
    head, settings, strategies = run(capsys, 'configs/mmdet/htc_swinv2_g.py', '--gpus', '8', '--card', '40')
    assert head.startswith('backbone 2997.9M parameters, neck and heads 260.3M; 1 x 1536 x 1536 px per GPU; autocast')
    peaks = {name: float(cells[7]) for name, cells in (settings | strategies).items()}
    assert peaks['plain, whole maps'] > 2 * peaks['plain'] and peaks['checkpointed'] < peaks['plain']
    # what the backbone keeps besides with whole maps: one of each block, in float32; moved windows cut two into halves
    maps = 0
    for i, (depth, heads, window) in enumerate([(2, 16, 32), (2, 32, 32), (42, 64, 32), (4, 128, 16)]):
        plain = 384 // 2**i * window  # pairs along an axis
        pairs = plain**2 + (plain - window**2 // 2)**2 if 384 // 2**i > window else 2 * plain**2
        maps += 4 * heads * depth // 2 * pairs / 2**30
    assert maps < float(settings['plain, whole maps'][4]) - float(settings['plain'][4]) < 1.1 * maps
    assert settings['as in the config'] == settings['checkpointed'] == strategies['none']
    assert {name: cells[-1] for name, cells in strategies.items()} == dict(none='-', zero1='-', fsdp='fits')
    assert peaks['fsdp'] < 24  # GiB: the paper's 8 GPUs have 40
    total = 3258.2e6
    assert float(strategies['fsdp'][0]) == pytest.approx(4 * total / 8 / 2**30, rel=.01)


def test_what_is_read_from_the_config(tmp_path, capsys):
    text = """train_dataloader = dict(batch_size=2)
strategy = dict(type='mmswinv2.FSDPStrategy')
optim_wrapper = dict(optimizer=dict(fused=True))
model = dict(backbone=dict(frozen_stages=3, mlp_ratio=2., with_cp=False))"""
    head, settings, strategies = run(capsys, config(tmp_path, text, 'htc_swinv2_b'))
    assert '2 x 1536 x 1536 px' in head and 'AdamW, fused; GiB on each of 8 GPUs' in head
    assert settings['as in the config'] == settings['plain'] == strategies['fsdp']
    assert float(settings['plain'][1]) < .7 * float(settings['plain'][0])  # frozen weights have no gradients
    # SGD without momentum; DDP keeps gradients twice where it is not told otherwise
    text = "optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=.1))\nmodel_wrapper_cfg = "
    head, settings, _ = run(capsys, config(tmp_path, text + "dict(_delete_=True, type='MMDistributedDataParallel')"),
                            '--gpus', '2')
    assert 'SGD' in head and settings['plain'][2] == '0.00'
    assert float(settings['plain'][1]) == pytest.approx(2 * float(settings['plain'][0]), rel=.01)
    _, settings, _ = run(capsys, config(tmp_path, text + "dict(gradient_as_bucket_view=True)"), '--gpus', '2')
    assert settings['plain'][1] == settings['plain'][0]


@pytest.mark.parametrize('strategy', ['zero1', 'fsdp'])
def test_fragments(strategy, tmp_path, capsys):
    path = config(tmp_path, '', 'htc_swinv2_t', f'_base_/{strategy}')
    head, settings, strategies = run(capsys, path, '--gpus', '16')
    assert settings['as in the config'] == strategies[strategy] != strategies['none'] and '16 GPUs' in head


def test_overrides(capsys):
    args = ['configs/mmdet/htc_swinv2_t.py', '--strategy', 'fsdp', '--gpus', '16', '--batch', '3', '--size',
            '640', '800', '--amp', 'none']
    head, settings, strategies = run(capsys, *args)
    assert '3 x 640 x 800 px per GPU; float32' in head and '16 GPUs' in head
    assert settings['as in the config'] == strategies['fsdp']


def test_segmentation_counts_the_loss(capsys):
    """log_softmax of the logits at full size is kept: 150 classes x 640 x 640 px x 8 images in two heads."""
    head, settings, _ = run(capsys, 'configs/mmseg/upernet_swinv2_t.py')
    assert '8 x 640 x 640 px' in head
    assert float(settings['plain'][5]) > 8 * 4 * 150 * 640**2 * 2 / 2**30


def inheriting(tmp_path, base, **model):
    """A config upon one of a host, by its file: the fork of MMEngine does not find ``mmseg::``."""
    path, (host, name) = tmp_path / 'config.py', base.split('::')
    file = Path(import_module(host).__file__).parent / '.mim' / 'configs' / name
    path.write_text(f'_base_ = {str(file)!r}\nmodel = {model!r}\n')
    return str(path)


BACKBONE = dict(_delete_=True, type='mmswinv2.SwinTransformerV2')
FPN = dict(in_channels=[96, 192, 384, 768])


@pytest.mark.parametrize('base, model, left_out', [
    ('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', dict(neck=FPN), None),
    ('mmdet::mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py', {}, 'panoptic_head;'),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ('mmdet::ms_rcnn/ms-rcnn_r50_fpn_1x_coco.py', dict(neck=FPN), 'roi_head.mask_iou_head;'),
        ('mmdet::dino/dino-5scale_swin-l_8xb2-12e_coco.py', dict(neck=FPN), 'neck and heads'),
        ('mmseg::mask2former/mask2former_swin-t_8xb2-160k_ade20k-512x512.py', {}, 'neck and heads'),
        ('mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py', {}, 'student.neck, '))),
])
def test_where_heads_are_not_counted_nothing_is_said_to_fit(base, model, left_out, tmp_path, capsys):
    """Mask Scoring R-CNN's are in part. What does not fit without heads does not fit with them."""
    model = dict(detector=dict(backbone=BACKBONE, neck=FPN)) if 'soft' in base else dict(model, backbone=BACKBONE)
    path = inheriting(tmp_path, base, **model)
    assert plan_memory.main([path, '--size', '512', '--batch', '1']) == 0
    out = capsys.readouterr().out
    verdict = 'fits' if left_out is None else '?'
    assert out.startswith('backbone 27.6M parameters') and ('not counted' in out) == (left_out is not None)
    assert left_out is None or f'not counted: activations of {left_out}' in out
    for table in tables(out):
        assert {cell for cells in table.values() for cell in cells[-4:]} == {verdict}
    _, settings, _ = run(capsys, path, '--size', '1536', '--batch', '64')
    assert settings['plain, whole maps'][-4:] == ['-'] * 4


def test_of_several_trained_backbones_none_is_chosen(tmp_path, capsys):
    base = 'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
    path = inheriting(tmp_path, base, detector=dict(backbone=BACKBONE), semi_train_cfg=dict(freeze_teacher=False))
    assert plan_memory.main([path]) == 2
    assert 'elsewhere in the model, got student.backbone, teacher.backbone' in capsys.readouterr().err


def build(path, **changes):
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(changes)
    register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg.model).train()


def test_heads_keep_what_the_loss_keeps():
    """A real step of HTC's heads on the CPU, beside the same on the meta device with as many RoIs."""
    model = build(HTC)
    size, objects = 256, 8
    net = model.backbone
    x = [torch.randn(1, d, size // (4 << i), size // (4 << i), requires_grad=True)
         for i, d in enumerate(net.arch.dims)]
    corners = torch.rand(objects, 2) * size / 2
    instances = InstanceData(bboxes=torch.cat([corners, corners + 32 + torch.rand(objects, 2) * size / 3], 1),
                             labels=torch.zeros(objects, dtype=torch.long))
    instances.masks = BitmapMasks(np.ones((objects, size, size), dtype=np.uint8), size, size)
    shape = (size, size)
    sample = DetDataSample(metainfo=dict(img_shape=shape, pad_shape=shape, batch_input_shape=shape),
                           gt_instances=instances, ignored_instances=instances[:0])
    counts = []
    for head in model.roi_head.mask_head:
        head.register_forward_pre_hook(lambda m, args: counts.append(len(args[0])))
    boxes = []
    for head in model.roi_head.bbox_head:
        head.register_forward_pre_hook(lambda m, args: boxes.append(len(args[0])))
    with DefaultScope.overwrite_default_scope('mmdet'), LiveBytes(*x, *model.parameters(), *model.buffers()) as live:
        maps = model.neck(tuple(x)) if not isinstance(model.neck, (list, tuple)) else None
        cfg = model.train_cfg.get('rpn_proposal', model.test_cfg.rpn)
        losses, proposals = model.rpn_head.loss_and_predict(maps, [sample], proposal_cfg=cfg)
        losses.update(model.roi_head.loss(maps, proposals, [sample]))
        kept = live.live
    for config, rois in zip(model.roi_head.train_cfg, boxes):
        config.sampler.num, config.sampler.pos_fraction = rois, counts[-1] / rois
    with torch.device('meta'):
        meta = model.to('meta')
    predicted = heads_memory(meta, [t.shape for t in x], (size, size), objects=objects)
    assert predicted.kept == pytest.approx(kept, rel=.15)


@pytest.mark.parametrize('args, message', [
    (['configs/mmdet/htc_swinv2_t.py', '--size', '0'], '--size must be one or two numbers >= 1 px, got [0]'),
    (['configs/mmdet/htc_swinv2_t.py', '--batch', '0'], '--batch must be >= 1, got 0'),
    (['configs/mmdet/htc_swinv2_t.py', '--gpus', '0'], '--gpus must be >= 1, got 0'),
    (['configs/mmdet/_base_/default_runtime.py'], 'CONFIG must have a model.backbone of type'),
    (['nowhere.py'], 'nowhere.py'),
])
def test_bad_input_is_one_line(args, message, capsys):
    assert plan_memory.main(args) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and message in err


@pytest.mark.parametrize('text, message', [
    ('model = dict(', 'SyntaxError'),
    ('a = 1 / 0', 'ZeroDivisionError: division by zero'),
    ("model = dict(backbone=dict(windw_size=8))", "TypeError"),
    ("model = dict(rpn_head=dict(_delete_=True, type='RPNHead'))", 'TypeError'),
    ("model = dict(backbone=dict(window_size=1))", 'window_size must be >= 2 tokens, got 1'),
    ("model = dict(backbone=dict(attn_backend='torch'))", 'it is for float16 and bfloat16, not for float32'),
    ("optim_wrapper = 3", 'AttributeError'),
    ("strategy = dict(type='mmswinv2.FSDPStrategy', units=['X'])", "strategy.units must have SwinBlock"),
    ("strategy = dict(type='ColossalAIStrategy')", 'strategy.type must be one of ZeroStrategy, FSDPStrategy'),
])
def test_a_bad_config_is_one_line(text, message, tmp_path, capsys):
    assert plan_memory.main([config(tmp_path, text)]) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and message in err
