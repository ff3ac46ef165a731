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
from plan_memory import Planner
from planner.counting import LiveBytes
from planner.heads import heads_memory
from planner.sharding import STRATEGIES, Sharding

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg]

ROOT = Path(__file__).parents[1]
MINI = f'{ROOT}/configs/mmdet/htc_swinv2_mini.py'


def config(tmp_path, text, *bases):
    path = tmp_path / 'config.py'
    files = [f'{ROOT}/configs/mmdet/{base}.py' for base in bases or ['htc_swinv2_mini']]
    path.write_text(f'_base_ = {files}\n{text}\n')
    return str(path)


@pytest.fixture(scope='module')
def planner():
    return Planner(MINI, size=[256], batch=320, gpus=8)


def test_both_tables_are_printed(planner, capsys):
    """With the figures of the plans, in GiB; a row that is not asked for is left out."""
    rows = ['plain, whole maps', 'checkpointed']
    options = ['--size', '256', '--batch', '320', '--gpus', '8', '--card', '24', '--rows', *rows]
    assert plan_memory.main([MINI, *options]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == ('backbone 5.2M parameters, neck and heads 4.1M; 320 x 256 x 256 px per GPU; float32; AdamW, '
                    'fused; GiB on each of 8 GPUs')
    printed = [(line[:25].strip(), line[25:].split()) for line in lines[:8]]
    assert [name for name, _ in printed] == ['strategy none', *rows, '', 'as in the config', *STRATEGIES]
    assert printed[0][1] == printed[4][1] == [*plan_memory.COLUMNS, '24', 'GiB']
    plans = [*(planner.plan(row) for row in rows), *(planner.plan(strategy=strategy) for strategy in STRATEGIES)]
    for plan, (_, cells), fits in zip(plans, printed[1:3] + printed[5:], ['-', 'fits', *'---'], strict=True):
        figures = [plan.weights, plan.gradients, plan.optimizer, plan.gathered, plan.activations, plan.heads,
                   plan.workspace, plan.peak]
        assert cells == [*(f'{size / 2**30:.2f}' for size in figures), plan.moment, fits]


def test_rows(planner):
    """Whole maps: one of each block is kept, in float32; moved windows cut two into halves."""
    maps = 0
    for i, heads in enumerate((2, 4, 8, 16)):
        plain = 64 // 2**i * 8  # pairs along an axis
        pairs = plain**2 + (plain - 8**2 // 2)**2 if i < 3 else 2 * plain**2
        maps += 320 * 4 * heads * pairs
    whole, plain, checkpointed = map(planner.plan, ('plain, whole maps', 'plain', 'checkpointed'))
    assert maps < whole.activations - plain.activations < 1.1 * maps
    assert checkpointed.activations < .3 * plain.activations and planner.plan() == plain


def test_the_papers_model():
    """As docs/performance.md has it, and the README: 8 GPUs of 40 GB are enough, as in the paper."""
    planner = Planner(f'{ROOT}/configs/mmdet/htc_swinv2_g.py', gpus=8)
    assert (planner.image, planner.batch, planner.setting.autocast) == ((1536, 1536), 1, True)
    assert round(planner.rest.parameters / 1e6, 1) == 2997.9 and round(planner.rest.others / 1e6, 1) == 260.3
    plans = [planner.plan(strategy=strategy) for strategy in STRATEGIES]
    assert [round(plan.peak / 2**30, 2) for plan in plans] == [58.84, 37.60, 15.73]
    assert planner.plan() == planner.plan('checkpointed') == plans[2]
    assert plans[2].weights == pytest.approx(4 * 3258.2e6 / 8, rel=.001)


def test_what_is_read_from_the_config(tmp_path):
    text = """train_dataloader = dict(batch_size=2)
strategy = dict(type='mmswinv2.FSDPStrategy')
optim_wrapper = dict(optimizer=dict(fused=True))
model = dict(backbone=dict(frozen_stages=3, mlp_ratio=2., with_cp=False))"""
    planner = Planner(config(tmp_path, text), size=[64])
    assert (planner.batch, planner.optimizer) == (2, 'AdamW')
    assert planner.sharding == Sharding('fsdp', 8, True, 8, foreach=False)
    assert planner.plan() == planner.plan('plain') == planner.plan(strategy='fsdp')
    rest = planner.rest
    assert rest.trainable < .7 * rest.parameters  # frozen weights have no gradients
    assert planner.plan().gradients == planner.sharding.gradients(rest.trainable + rest.others_trainable)


@pytest.mark.parametrize('wrapper, copies', [
    ("dict(_delete_=True, type='MMDistributedDataParallel')", 2), ('dict(gradient_as_bucket_view=True)', 1)])
def test_ddp_keeps_gradients_twice_where_it_is_not_told_otherwise(wrapper, copies, tmp_path):
    """And SGD without momentum has no states."""
    text = f"""optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=.1))
model_wrapper_cfg = {wrapper}"""
    planner = Planner(config(tmp_path, text), size=[64], gpus=2)
    plan = planner.plan('plain')
    assert planner.optimizer == 'SGD' and plan.optimizer == 0
    assert plan.gradients == copies * plan.weights


@pytest.mark.parametrize('strategy', ['zero1', 'fsdp'])
def test_fragments(strategy, tmp_path):
    planner = Planner(config(tmp_path, '', 'htc_swinv2_mini', f'../_base_/sharding/{strategy}'), gpus=16, size=[64])
    assert planner.plan() == planner.plan(strategy=strategy) != planner.plan(strategy='none')
    assert planner.sharding.gpus == 16


def test_overrides(tmp_path, capsys):
    path = config(tmp_path, "model = dict(backbone=dict(autocast_dtype='bfloat16'))")
    assert Planner(path, size=[64], batch=1).setting.autocast
    args = ['--strategy', 'fsdp', '--gpus', '16', '--batch', '3', '--size', '64', '80', '--amp', 'none', '--rows']
    assert plan_memory.main([path, *args, 'as in the config']) == 0
    out = capsys.readouterr().out
    assert '3 x 64 x 80 px per GPU; float32' in out and '16 GPUs' in out
    rows = dict((line[:25].strip(), line[25:]) for line in out.splitlines() if line[25:26] == ' ' and '.' in line[:40])
    assert rows['as in the config'] == rows['fsdp'] != rows['none']


def test_segmentation_counts_the_loss():
    """log_softmax of the logits at full size is kept, in two heads."""
    planner = Planner(f'{ROOT}/configs/mmseg/upernet_swinv2_t.py', size=[64])
    assert planner.batch == 8 and planner.heads.kept > 8 * 4 * 150 * 64**2 * 2


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
    ('mmdet::mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py', {}, None),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ('mmdet::ms_rcnn/ms-rcnn_r50_fpn_1x_coco.py', dict(neck=FPN), 'roi_head.mask_iou_head;'),
        ('mmdet::dino/dino-5scale_swin-l_8xb2-12e_coco.py', dict(neck=FPN), None),
        ('mmseg::mask2former/mask2former_swin-t_8xb2-160k_ade20k-512x512.py', {}, None),
        ('mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py', {}, 'student.neck, '))),
])
def test_where_heads_are_not_counted_nothing_is_said_to_fit(base, model, left_out, tmp_path, capsys):
    """Mask Scoring R-CNN's are in part. What does not fit without heads does not fit with them."""
    model = dict(detector=dict(backbone=BACKBONE, neck=FPN)) if 'soft' in base else dict(model, backbone=BACKBONE)
    path = inheriting(tmp_path, base, **model)
    for size, batch, verdict in ('64', '1', '?' if left_out else 'fits'), ('512', '1024', '-'):
        assert plan_memory.main([path, '--size', size, '--batch', batch, '--rows']) == 0
        out = capsys.readouterr().out
        assert out.startswith('backbone 27.6M parameters') and ('not counted' in out) == (left_out is not None)
        assert left_out is None or f'not counted: activations of {left_out}' in out
        lines = [line for line in out.splitlines() if line.startswith(STRATEGIES)]
        assert [line.split()[-4:] for line in lines] == 3 * [4 * [verdict]]


def test_of_several_trained_backbones_none_is_chosen(tmp_path, capsys):
    base = 'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
    path = inheriting(tmp_path, base, detector=dict(backbone=BACKBONE), semi_train_cfg=dict(freeze_teacher=False))
    assert plan_memory.main([path]) == 2
    assert 'elsewhere in the model, got student.backbone, teacher.backbone' in capsys.readouterr().err


def test_heads_keep_what_the_loss_keeps():
    """A real step of HTC's heads on the CPU, beside the same on the meta device with as many RoIs."""
    register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(Config.fromfile(MINI).model).train()
    size, objects = 256, 8
    x = [torch.randn(1, d, size // (4 << i), size // (4 << i), requires_grad=True)
         for i, d in enumerate(model.backbone.arch.dims)]
    corners = torch.rand(objects, 2) * size / 2
    instances = InstanceData(bboxes=torch.cat([corners, corners + 32 + torch.rand(objects, 2) * size / 3], 1),
                             labels=torch.zeros(objects, dtype=torch.long))
    instances.masks = BitmapMasks(np.ones((objects, size, size), dtype=np.uint8), size, size)
    shape = (size, size)
    sample = DetDataSample(metainfo=dict(img_shape=shape, pad_shape=shape, batch_input_shape=shape),
                           gt_instances=instances, ignored_instances=instances[:0])
    counts, boxes = [], []  # of RoIs
    for heads, seen in (model.roi_head.mask_head, counts), (model.roi_head.bbox_head, boxes):
        for head in heads:
            head.register_forward_pre_hook(lambda m, args, seen=seen: seen.append(len(args[0])))
    with DefaultScope.overwrite_default_scope('mmdet'), LiveBytes(*x, *model.parameters(), *model.buffers()) as live:
        maps = model.neck(tuple(x))
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
    ([MINI, '--size', '0'], '--size must be one or two numbers >= 1 px, got [0]'),
    ([MINI, '--batch', '0'], '--batch must be >= 1, got 0'),
    ([MINI, '--gpus', '0'], '--gpus must be >= 1, got 0'),
    ([f'{ROOT}/configs/mmdet/_base_/default_runtime.py'], 'CONFIG must have a model.backbone of type'),
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
