"""HTC++ parts: masks of all stages, pooling in float32, one training and one test step, the message without mmdet."""
import pytest
import torch
from mmdet.models.roi_heads import HybridTaskCascadeRoIHead as UpstreamHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor as UpstreamExtractor
from mmengine.registry import MODELS as ROOT
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from helpers.configs import load
from helpers.detection import batch, sample
from mmswinv2 import detection, hosts
from mmswinv2.detection import HybridTaskCascadeRoIHead, SingleRoIExtractor
from mmswinv2.engine import SwinOptimWrapperConstructor

pytestmark = pytest.mark.mmdet


@pytest.fixture(scope='module')
def model():
    from mmdet.registry import MODELS
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        cfg = load('mmdet/htc_swinv2_mini.py').model
        model = MODELS.build(cfg)
        model.init_weights()
        yield model


def test_one_training_step_reaches_every_parameter(model):
    model.train()
    data = model.data_preprocessor(
        batch(sample(96, 128, [[10, 10, 60, 70], [30, 20, 100, 80]], [0, 1]), sample(96, 120, [[5, 5, 90, 90]], [2])),
        True)
    losses = model.loss(data['inputs'], data['data_samples'])
    total, _ = model.parse_losses(losses)
    assert total.isfinite()
    assert {'loss_rpn_cls', 's0.loss_cls', 's1.loss_bbox', 's2.loss_mask'} <= set(losses)
    model.zero_grad()
    total.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_layer_decay_reaches_the_backbone_of_a_student():
    """SoftTeacher's student has the learning rates of its detector alone; its teacher, which is frozen, has none."""
    def rates(model):
        wrapper = SwinOptimWrapperConstructor(dict(optimizer=dict(type='AdamW', lr=1.)), dict(
            backbone_lr_mult=.1, layer_decay_rate=.5))(model)
        names = {p: name for name, p in model.named_parameters()}
        return {names[p]: group['lr'] for group in wrapper.optimizer.param_groups for p in group['params']}

    detector = load('mmdet/htc_swinv2_mini.py').model
    with DefaultScope.overwrite_default_scope('mmdet'), torch.device('meta'):
        semi = ROOT.build(dict(type='mmdet.SoftTeacher', detector=detector, semi_test_cfg={},
                               semi_train_cfg=dict(freeze_teacher=True)))
        alone = ROOT.build(detector)
    expected = rates(alone)
    assert rates(semi) == {f'student.{name}': rate for name, rate in expected.items()}
    assert min(expected.values()) == expected['backbone.patch_embed.proj.weight'] < .01


def test_images_without_objects_train(model):
    model.train()
    data = model.data_preprocessor(batch(sample(64, 64, [], []), sample(64, 64, [[3, 3, 4, 4]], [1])), True)
    total, _ = model.parse_losses(model.loss(data['inputs'], data['data_samples']))
    assert total.isfinite()


def test_masks_at_test_are_the_mean_of_three_stages(model):
    model.eval()
    head = model.roi_head
    assert type(head) is HybridTaskCascadeRoIHead and len(head.mask_head) == 3
    x = model.extract_feat(torch.randn(1, 3, 96, 96))
    rois = torch.tensor([[0., 10, 10, 60, 60], [0, 5, 20, 90, 70]])
    with torch.no_grad():
        preds = head._mask_forward(-1, x, rois, training=False)['mask_preds']
        last, = UpstreamHead._mask_forward(head, -1, x, rois, training=False)['mask_preds']
    assert len(preds) == 3
    torch.testing.assert_close(preds[2], last)
    assert (preds[0] - preds[2]).abs().max() > 1e-4

    pasted = []
    results = InstanceData(bboxes=rois[:, 1:], labels=torch.tensor([0, 1]), scores=torch.ones(2))
    original = head.mask_head[-1].predict_by_feat
    head.mask_head[-1].predict_by_feat = lambda mask_preds, **kwargs: pasted.extend(mask_preds)
    try:
        with torch.no_grad():
            head.predict_mask(x, None, [dict(img_shape=(96, 96), ori_shape=(96, 96), scale_factor=(1., 1.))], [results])
    finally:
        head.mask_head[-1].predict_by_feat = original
    torch.testing.assert_close(pasted[0], torch.stack([p.sigmoid() for p in preds]).mean(0))


def test_no_mask_information_flow_at_test(model):
    head = model.roi_head.eval()
    x = model.extract_feat(torch.randn(1, 3, 64, 64))
    rois = torch.tensor([[0., 10, 10, 60, 60]])
    head.mask_info_flow = False
    try:
        with torch.no_grad():
            preds = head._mask_forward(-1, x, rois, training=False)['mask_preds']
    finally:
        head.mask_info_flow = True
    assert [p.shape for p in preds] == [(1, 4, 28, 28)] * 3


def test_one_test_step(model):
    model.eval()
    with torch.no_grad():
        result, = model.test_step(batch(sample(96, 120, [[5, 5, 90, 90]], [2])))
    pred = result.pred_instances
    assert pred.masks.shape == (len(pred), 96, 120)
    assert pred.scores.isfinite().all() and pred.bboxes.isfinite().all()


def extractor(cls):
    return cls(roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2), out_channels=4,
               featmap_strides=[4, 8])


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_pooling_stays_in_float32(dtype, rng):
    feats = tuple(torch.randn(1, 4, 400 // s, 400 // s, generator=rng).to(dtype) for s in (1, 2))
    rois = torch.tensor([[0., 1025.3, 1026.1, 1057.9, 1060.2], [0, 100.7, 90.2, 400.9, 333.3]])
    with torch.autocast('cpu', dtype=dtype):
        pooled = extractor(SingleRoIExtractor)(feats, rois)
    exact = extractor(UpstreamExtractor)(tuple(f.float() for f in feats), rois)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, exact)


def test_pooling_equals_mmdets_in_float32(rng):
    feats = tuple(torch.randn(2, 4, 64 // s, 64 // s, generator=rng) for s in (1, 2))
    rois = torch.tensor([[0., 10, 10, 60, 60], [1, 5, 20, 90, 70]])
    torch.testing.assert_close(extractor(SingleRoIExtractor)(feats, rois), extractor(UpstreamExtractor)(feats, rois))


def test_found_by_prefix_only():
    assert ROOT.get('mmswinv2.HybridTaskCascadeRoIHead') is HybridTaskCascadeRoIHead
    from mmdet.registry import MODELS
    assert MODELS.get('HybridTaskCascadeRoIHead') is UpstreamHead


def test_without_mmdet_the_message_names_the_extra(monkeypatch):
    monkeypatch.setattr(hosts, 'is_installed', lambda package: package != 'mmdet')
    with pytest.raises(ImportError, match=r"SingleRoIExtractor needs mmdet, .*'mmswinv2-plugin\[classic\]'"):
        getattr(detection, 'SingleRoIExtractor')


def test_semantic_features_reach_the_masks_at_test(rng):
    """Each stage's logits are those that mmdet's training computes from the same RoIs."""
    cfg = load('mmdet/htc_swinv2_mini.py')
    head = cfg.model.roi_head
    head.update(
        semantic_roi_extractor=dict(head.mask_roi_extractor, featmap_strides=[8]),
        semantic_head=dict(type='FusedSemanticHead', num_ins=5, fusion_level=1, num_convs=1, in_channels=48,
                           conv_out_channels=48, num_classes=5, seg_scale_factor=1 / 8,
                           loss_seg=dict(type='CrossEntropyLoss', ignore_index=255, loss_weight=.2)))
    with DefaultScope.overwrite_default_scope('mmdet'):
        from mmdet.registry import MODELS
        roi_head = MODELS.build(cfg.model).roi_head.eval()
    x = tuple(torch.randn(1, 48, n, n, generator=rng) for n in (16, 8, 4, 2, 1))
    semantic = torch.randn(1, 48, 8, 8, generator=rng)
    rois = torch.tensor([[0, 4., 4., 40., 50.], [0, 10., 2., 60., 30.]])
    with torch.no_grad():
        ours = roi_head._mask_forward(2, x, rois, semantic, training=False)['mask_preds']
        theirs = [roi_head._mask_forward(stage, x, rois, semantic)['mask_preds'] for stage in range(3)]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
