"""Each config of mmdet with reduced widths: one training and one test step; pipelines; what annotations may hold."""
import json
import re

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from PIL import Image
from pycocotools import mask as coco_mask

from helpers.configs import LEAVES, build, load
from helpers.detection import batch, collate, image, sample, view
from mmswinv2.core import SwinTransformerV2

pytestmark = pytest.mark.mmdet

# test_queries.py has the others
RECIPES = [name for name in LEAVES if name.startswith(('mmdet/htc', 'mmdet/cascade')) and 'mini' not in name]
# with reduced widths these have the same model and optimizer
SAME = [(r'_s(?=[_.])', '_t'), (r'_b(?=[_.])', '_l'), ('_w48_test-dev|_ms-400-1400|-pre', '')]
WIDTH = 16


def kind(name):
    for pattern, other in SAME:
        name = re.sub(pattern, other, name)
    return name


KINDS = {kind(name): name for name in RECIPES}


def shrink(cfg):
    """The same types with few channels, blocks and samples; windows stay."""
    model = cfg.model
    model.backbone.update(arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8]), init_cfg=None)

    def walk(node):
        if isinstance(node, dict):
            for key, value in node.items():
                if key in ('in_channels', 'out_channels', 'feat_channels', 'conv_out_channels', 'fc_out_channels'):
                    node[key] = [8, 16, 32, 64] if isinstance(value, list) else WIDTH
                elif key in ('num_convs', 'num_shared_convs'):
                    node[key] = min(1, value)
                elif key == 'sampler':
                    value.num = 8
                elif key in ('nms_pre', 'max_per_img'):
                    node[key] = min(value, 10)
                else:
                    walk(value)
        elif isinstance(node, (list, tuple)):
            for value in node:
                walk(value)
    for part in ('neck', 'rpn_head', 'roi_head', 'train_cfg', 'test_cfg'):
        walk(model[part])
    if 'Attention' in model.neck.type:
        model.neck.attention = dict(num_heads=4)
    model.roi_head.bbox_roi_extractor.roi_layer.sampling_ratio = 1
    return cfg


def small_model(cfg):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return revert_sync_batchnorm(MODELS.build(shrink(cfg).model))


def one_batch(model):
    samples = [sample(64, 96, [[10, 10, 60, 50], [30, 20, 90, 60]], [0, 1]), sample(64, 90, [[5, 5, 80, 60]], [2])]
    if getattr(model.roi_head, 'with_semantic', False):
        for s in samples:
            s.gt_sem_seg = PixelData(sem_seg=torch.randint(0, 183, (1, *s.img_shape)))
    if not model.roi_head.with_mask:
        for s in samples:
            del s.gt_instances.masks
    return batch(*samples)


def loss_of(model, data):
    data = model.data_preprocessor(data, True)
    losses = model.loss(data['inputs'], data['data_samples'])
    total, logged = model.parse_losses(losses)
    assert all(v.isfinite().all() for v in logged.values()), logged
    return total, logged


@pytest.mark.parametrize('name', RECIPES)
def test_builds_at_full_size(name):
    cfg = load(name)
    model = build(cfg)
    heads = model.roi_head.bbox_head
    assert {h.num_classes for h in heads} == {365 if 'g_objects365' in name and '-pre' not in name else 80}
    assert model.backbone.pretrained_window_sizes[0] in ((8, 8), (12, 12), (16, 16))


@pytest.mark.parametrize('name', KINDS.values())
def test_one_training_and_one_test_step(name):
    cfg = load(name)
    factor = cfg.optim_wrapper.paramwise_cfg.backbone_lr_mult
    lr = cfg.optim_wrapper.optimizer.lr
    model = small_model(cfg).train()
    with DefaultScope.overwrite_default_scope('mmdet'):
        optim = build_optim_wrapper(model, cfg.optim_wrapper)
    groups = optim.optimizer.param_groups
    # stages of one block and a merging each, the last without: 7 layers, the embedding and what is outside
    layers = {round(factor * cfg.optim_wrapper.paramwise_cfg.layer_decay_rate**n, 6) for n in range(9)}
    assert {round(g['lr'] / lr, 6) for g in groups} == {1.} | layers
    assert {g['weight_decay'] for g in groups} == {0., .05}
    decayed = {id(p) for g in groups if g['weight_decay'] for p in g['params']}
    for n, p in model.named_parameters():
        exempt = p.ndim <= 1 or any(key in n for key in ('cpb_mlp', 'logit_scale', 'relative_position_bias_table'))
        assert (id(p) in decayed) != exempt, n
    assert sum(len(g['params']) for g in groups) == sum(p.requires_grad for p in model.parameters())

    total, logged = loss_of(model, one_batch(model))
    assert ('s2.loss_mask' in logged) == model.roi_head.with_mask
    assert ('loss_semantic_seg' in logged) == ('semantic' in name)
    before = [p.detach().clone() for p in model.parameters()]
    total.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    optim.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters())]
    assert sum(moved) > .5 * len(moved)  # not those behind norms whose weights start at 0

    with torch.no_grad():
        result, = model.eval().test_step(batch(sample(64, 90, [[5, 5, 80, 60]], [2])))
    pred = result.pred_instances
    assert pred.scores.isfinite().all() and pred.bboxes.isfinite().all()
    assert ('masks' in pred) == model.roi_head.with_mask
    if 'tta_model' in cfg:
        with DefaultScope.overwrite_default_scope('mmdet'):
            assert len(cfg.tta_model.size_ranges) == len(cfg.tta_pipeline[1].transforms[0])
            tta = MODELS.build(dict(cfg.tta_model, module=model, size_ranges=cfg.tta_model.size_ranges[2:4]))
        result, = tta.test_step(collate([view(image()), view(image(), 1.2, 'horizontal')]))
        assert result.pred_instances.scores.isfinite().all()


@pytest.mark.parametrize('name', ['mmdet/htc_swinv2_l.py', 'mmdet/htc_swinv2_g.py'])
def test_bfloat16_is_for_the_backbone_and_its_global_attention(name):
    """FPN, heads and all maps between modules are float32."""
    model = small_model(load(name)).eval()
    dtypes = {}
    for path, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            module.register_forward_hook(lambda m, args, out, path=path: dtypes.update({path: out.dtype}))
    with torch.no_grad():
        x = model.extract_feat(torch.randn(1, 3, 64, 64))
        model.rpn_head(x)
    assert {d for p, d in dtypes.items() if p.startswith('backbone') and 'mlp.fc' in p and 'cpb' not in p} == {
        torch.bfloat16}
    assert {d for p, d in dtypes.items() if p.startswith('neck.0')} == {torch.bfloat16}
    assert {d for p, d in dtypes.items() if not p.startswith(('backbone', 'neck.0'))} == {torch.float32}
    assert all(f.dtype == torch.float32 for f in x)


def test_autocast_dtype_is_checked():
    with pytest.raises(ValueError, match="autocast_dtype must be None, bfloat16 or float16, got 'fp8'"):
        MODELS.build(dict(type='mmswinv2.SwinTransformerV2', autocast_dtype='fp8'))


@pytest.mark.parametrize('size', 'lg')
def test_windows_of_table_3_load_one_checkpoint(size, rng):
    trained, other = (small_model(load(f'mmdet/htc_swinv2_{size}{test}.py')).eval() for test in ('', '_w48_test-dev'))
    assert trained.backbone.window_sizes == ((32, 32),) * 3 + ((16, 16),)
    assert other.backbone.window_sizes == ((48, 48),) * 3 + ((24, 24),)
    assert other.backbone.pretrained_window_sizes == trained.backbone.pretrained_window_sizes == (
        (12, 12),) * 3 + ((6, 6),)
    for block in (b for stage in trained.backbone.layers for b in stage.blocks):
        torch.nn.init.ones_(block.norm1.weight)
    other.load_state_dict(trained.state_dict())
    x = torch.randn(1, 3, 256, 160, generator=rng)
    with torch.no_grad():
        a, b = trained.extract_feat(x), other.extract_feat(x)
    assert all(f.isfinite().all() for f in b)
    assert (a[0] - b[0]).abs().max() > 0  # 64 tokens: two windows of 32, or 48 and 16


def test_settings_of_table_3():
    for size, batch_size, lr in (('l', 64, 4e-4), ('g', 96, 6e-4)):
        cfg = load(f'mmdet/htc_swinv2_{size}.py')
        assert cfg.test_dataloader.dataset.pipeline[1].scale == (1800, 1100)
        assert cfg.auto_scale_lr.base_batch_size == batch_size and cfg.optim_wrapper.optimizer.lr == lr
        scales = [t['scale'] for t in cfg.tta_pipeline[1].transforms[0]]
        assert len(scales) == 6
        assert cfg.model.test_cfg.rcnn.nms.type == 'soft_nms'
    assert load('mmdet/htc_swinv2_g.py').train_cfg.max_iters == 45000
    o365 = load('mmdet/htc_swinv2_g_objects365.py')
    assert (o365.train_cfg.max_iters, o365.optim_wrapper.optimizer.lr) == (67500, 1.2e-3)
    for cfg in (load('mmdet/htc_swinv2_g.py'), o365):
        assert cfg.log_processor.by_epoch is False and cfg.default_hooks.checkpoint.by_epoch is False
        assert cfg.default_hooks.logger.interval == 50  # the rest of the base's hooks is there


def test_fine_tuning_from_objects365_takes_what_fits():
    before, after = (small_model(load(f'mmdet/htc_swinv2_g{suffix}.py')) for suffix in (
        '_objects365', '_objects365-pre'))
    from mmengine.runner import load_state_dict
    state = before.state_dict()
    load_state_dict(after, dict(state), strict=False)
    own = after.state_dict()
    fresh = {k for k, v in own.items() if k not in state or state[k].shape != v.shape}
    assert all('mask_head' in k or 'fc_cls' in k for k in fresh) and any('mask_head' in k for k in fresh)
    assert all(torch.equal(own[k], state[k]) for k in own if k not in fresh)


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    """A data set with all that annotations may hold: a crowd, a box of a pixel, and images without any object."""
    folder = tmp_path_factory.mktemp('coco')
    rng = np.random.default_rng(0)
    sizes = [(120, 160), (97, 131), (140, 90), (101, 101)]
    images, annotations = [], []

    def add(image, box, segmentation, crowd=0, area=None):
        x, y, w, h = box
        annotations.append(dict(id=len(annotations) + 1, image_id=image, category_id=1 + len(annotations) % 2, bbox=box,
                                iscrowd=crowd, area=area or w * h, segmentation=segmentation))
    for i, (h, w) in enumerate(sizes):
        Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)).save(folder / f'{i}.jpg')
        Image.fromarray(rng.integers(0, 183, (h, w), dtype=np.uint8)).save(folder / f'{i}.png')
        images.append(dict(id=i, file_name=f'{i}.jpg', height=h, width=w))

    def square(x, y, w, h):
        return [[x, y, x + w, y, x + w, y + h, x, y + h]]
    add(0, [20, 20, 60, 50], square(20, 20, 60, 50))
    add(0, [90, 30, 1, 1], square(90, 30, 1, 1))
    crowd = np.zeros(sizes[0], dtype=np.uint8)
    crowd[60:110, 80:150] = 1
    add(0, [80, 60, 70, 50], _run_lengths(crowd), crowd=1, area=float(crowd.sum()))
    add(1, [5, 6, 40, 30], square(5, 6, 40, 30))
    crowd = np.pad(np.ones((50, 50), np.uint8), ((0, 51), (0, 51)))
    add(3, [0, 0, 50, 50], _run_lengths(crowd), crowd=1)  # nothing but a crowd; image 2 has no annotation
    categories = [dict(id=1, name='a'), dict(id=2, name='b')]
    (folder / 'ann.json').write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return folder


def _run_lengths(mask):
    """COCO's uncompressed run lengths, column by column, which its own API reads as the same mask."""
    flat = mask.flatten(order='F')
    counts = np.diff([0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]).tolist()
    out = dict(size=list(mask.shape), counts=[0, *counts] if flat[0] else counts)  # the first run is of zeros
    assert np.array_equal(coco_mask.decode(coco_mask.frPyObjects(out, *mask.shape)), mask)
    return out


def dataset(folder, pipeline, **kwargs):
    return DATASETS.build(dict(
        type='CocoDataset', ann_file=str(folder / 'ann.json'), data_prefix=dict(img=str(folder), **kwargs),
        metainfo=dict(classes=('a', 'b')), filter_cfg=dict(filter_empty_gt=False), pipeline=pipeline))


def scaled(pipeline, by):
    """A pipeline with sizes divided, so that it takes no time."""
    def walk(node):
        if isinstance(node, dict):
            return {k: tuple(n // by for n in v) if k in ('crop_size', 'size') else
                    [tuple(n // by for n in s) for s in v] if k == 'scales' else
                    (tuple(n // by for n in v) if isinstance(v[0], int) else [tuple(n // by for n in s) for s in v])
                    if k == 'scale' and 'Resize' in node.get('type', '') else walk(v) for k, v in node.items()}
        return [walk(v) for v in node] if isinstance(node, list) else node
    return [walk(dict(t)) for t in pipeline]


@pytest.mark.parametrize('name', ['htc_swinv2_l', 'htc_swinv2_g', 'htc_swinv2_l_ms-400-1400', 'htc_swinv2_l_semantic',
                                  'cascade-mask-rcnn_swinv2_t_w16'])
def test_any_annotation_trains(name, coco):
    """Crowds, boxes of a pixel, images without objects, alone and together, through the config's own pipeline."""
    if name in ('htc_swinv2_l', 'htc_swinv2_l_ms-400-1400'):
        pytest.importorskip('instaboostfast')
    cfg = load(f'mmdet/{name}.py')
    model = small_model(cfg).train()
    np.random.seed(0)
    kwargs = dict(seg=str(coco)) if 'semantic' in name else {}
    with DefaultScope.overwrite_default_scope('mmdet'):
        by = 16 if name in ('htc_swinv2_l', 'htc_swinv2_g', 'htc_swinv2_l_semantic') else 8
        data = dataset(coco, scaled(cfg.train_dataloader.dataset.pipeline, by), **kwargs)
        assert len(data) == 4
        for chosen in ((0, 1), (2, 2), (3, 2), (0, 3)):
            total, _ = loss_of(model, pseudo_collate([data[i] for i in chosen]))
            model.zero_grad()
            total.backward()
            assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_large_scale_jitter_ends_on_the_canvas(coco):
    cfg = load('mmdet/htc_swinv2_g.py')
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert 'InstaBoost' not in [t.type for t in pipeline]
    assert 'InstaBoost' in [t.type for t in load('mmdet/htc_swinv2_l.py').train_dataloader.dataset.pipeline]
    with DefaultScope.overwrite_default_scope('mmdet'):
        data = dataset(coco, pipeline)
        for i in (0, 1):
            item = data[i]
            assert item['inputs'].shape == (3, 1536, 1536)
            assert item['data_samples'].gt_instances.masks.height == 1536


def test_without_instaboost_the_message_says_what_to_install(monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, 'instaboostfast', None)
    from mmdet.registry import TRANSFORMS
    with DefaultScope.overwrite_default_scope('mmdet'), pytest.raises(ImportError, match='pip install instaboostfast'):
        TRANSFORMS.build(load('mmdet/htc_swinv2_l.py').train_dataloader.dataset.pipeline[1])


def test_the_backbone_of_the_ablation_has_its_position_bias():
    for kind in ('log_cpb', 'linear_cpb', 'parameterized'):
        for window in (16, 32):
            cfg = load(f'mmdet/cascade-mask-rcnn_swinv2_t_w{window}.py')
            cfg.merge_from_dict({'model.backbone.position_bias': kind})
            net = build(cfg).backbone
            assert isinstance(net, SwinTransformerV2)
            attn = net.layers[0].blocks[0].attn
            assert attn.config.position_bias == kind
            assert (attn.window_size, attn.pretrained_window) == ((window,) * 2, (8, 8))
