"""Test-time augmentation of detectors: against plain testing, against flips, against a mean taken by hand."""
import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask

from helpers.configs import load
from helpers.detection import SIZE, collate, image, view
from mmswinv2.detection import InstanceSegTTAModel, RLEMasks
from mmswinv2.detection import tta as tta_module

pytestmark = pytest.mark.mmdet

DETECTORS = ('htc', 'htc semantic', 'cascade', 'mask rcnn', 'mask rcnn, class-agnostic', 'cascade boxes', 'faster rcnn')


def config(name):
    """A small detector's config, made of the parts of the demo's."""
    cfg = load('mmdet/htc_swinv2_mini.py').model
    cfg.backbone.update(arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8]), window_size=4,
                        pretrained_window_sizes=4)
    cfg.neck.update(in_channels=[8, 16, 32, 64], attention=dict(num_heads=4, drop_path_rate=0.))
    cfg.test_cfg.rpn.update(max_per_img=60)
    cfg.test_cfg.rcnn.update(score_thr=.2, max_per_img=20)
    head = cfg.roi_head
    if name == 'htc semantic':
        head.semantic_roi_extractor = dict(head.mask_roi_extractor, featmap_strides=[8])
        head.semantic_head = dict(type='FusedSemanticHead', num_ins=5, fusion_level=1, num_convs=1, in_channels=48,
                                  conv_out_channels=48, num_classes=5, seg_scale_factor=1 / 8,
                                  loss_seg=dict(type='CrossEntropyLoss', ignore_index=255, loss_weight=.2))
    if name.startswith('htc'):
        return cfg
    leave_out = ['interleaved', 'mask_info_flow']
    for mask_head in head.mask_head:
        mask_head.type = 'FCNMaskHead'
        mask_head.pop('with_conv_res')
    if name.startswith('cascade'):
        cfg.type, head.type = 'CascadeRCNN', 'mmswinv2.CascadeRoIHead'
    else:
        cfg.type, head.type = 'FasterRCNN' if name == 'faster rcnn' else 'MaskRCNN', 'StandardRoIHead'
        leave_out += ['num_stages', 'stage_loss_weights']
        head.bbox_head, head.mask_head = head.bbox_head[0], head.mask_head[0]
        head.bbox_head.num_classes = head.mask_head.num_classes = head.pop('num_classes')
        head.bbox_head.reg_class_agnostic = False
        head.mask_head.class_agnostic = 'agnostic' in name
        cfg.train_cfg.rcnn = cfg.train_cfg.rcnn[0]
    if name in ('cascade boxes', 'faster rcnn'):
        leave_out += ['mask_head', 'mask_roi_extractor']
    for key in leave_out:
        head.pop(key)
    return cfg


def build(cfg):
    """A detector whose heads say something, though they were never trained."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1 and not name.startswith('backbone'):
                p.normal_(0, 2 / p[0].numel()**.5)
            if 'backbone' in name and '.norm' in name and name.endswith('weight'):
                p.fill_(1)
            if name.endswith(('fc_reg.weight', 'rpn_reg.weight', 'rpn_cls.weight', 'retina_reg.weight')):
                p.mul_(.05)  # small offsets, and no ties among scores of 1
            if name.endswith('fc_cls.weight'):
                p.mul_(.2)
    return model


@functools.cache
def detector(name):
    """One of ``DETECTORS``, for all tests."""
    return build(config(name))


def wrap(model, **options):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return InstanceSegTTAModel(module=model, **options)


def plain(model, img, sample):
    with torch.no_grad():
        return model.test_step(dict(inputs=[img], data_samples=[copy.deepcopy(sample)]))[0].pred_instances


def assert_same(found, wanted, size=SIZE, atol=1e-5):
    assert len(found) == len(wanted) > 0
    torch.testing.assert_close(found.bboxes / max(size), wanted.bboxes / max(size), rtol=0, atol=atol)
    torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=atol)
    assert torch.equal(found.labels, wanted.labels)
    assert ('masks' in found) == ('masks' in wanted)
    if 'masks' in wanted:
        masks = wanted.masks.numpy()
        assert masks.any() and not masks.all()
        assert found.masks.numpy().shape == masks.shape == (len(found), *size)
        # pixels at the threshold may fall on either side of it
        assert (found.masks.astype(bool) != masks.astype(bool)).mean() < 1e-4


@pytest.mark.parametrize('name, scale', [('htc', 1.), ('htc', .77), *((name, 1.31) for name in DETECTORS)])
def test_one_view_is_plain_testing(name, scale):
    model = detector(name)
    img, sample = view(image(), scale)
    found, = wrap(model).test_step(collate([(img, sample)]))
    assert_same(found.pred_instances, plain(model, img, sample))
    assert found.ori_shape == SIZE


def flipped(result, direction, size=SIZE):
    """A result for the flipped image."""
    from mmdet.structures.bbox import bbox_flip
    out = InstanceData(bboxes=bbox_flip(result.bboxes, size, direction), scores=result.scores, labels=result.labels)
    if 'masks' in result:
        out.masks = torch.from_numpy(result.masks.numpy().copy()).flip(tta_module.FLIPS[direction])
    return out


@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
def test_a_flipped_view_is_flipped_back(direction):
    model = detector('htc')
    found, = wrap(model).test_step(collate([view(image(), 1.2, direction)]))
    img, sample = view(image(), 1.2, direction)
    sample.set_metainfo(dict(flip=False, flip_direction=None))  # as if it were an image of its own
    assert_same(found.pred_instances, flipped(plain(model, img, sample), direction))


@pytest.mark.parametrize('name', ['htc', 'mask rcnn', 'faster rcnn'])
def test_the_result_for_a_flipped_image_is_the_flipped_result(name):
    model = wrap(detector(name))
    img = image()
    found, = model.test_step(collate([view(img), view(img, 1., 'horizontal')]))
    mirrored = img.flip(-1)
    other, = model.test_step(collate([view(mirrored), view(mirrored, 1., 'horizontal')]))
    assert_same(other.pred_instances, flipped(found.pred_instances, 'horizontal'))


@pytest.mark.parametrize('name', ['htc', 'cascade', 'mask rcnn'])
def test_views_are_averaged_on_shared_proposals(name):
    """By hand: each view's raw results for the same boxes, mapped to the original image, and their mean."""
    model = detector(name)
    views = [view(image()), view(image(), 1.5, 'horizontal'), view(image(), .8)]
    tta = wrap(model)
    calls = {}
    for method in ('_merge_proposals', '_average_boxes', '_average_masks'):
        def record(*args, _method=method, _f=getattr(tta, method)):
            calls[_method] = _f(*args)
            return calls[_method]
        setattr(tta, method, record)
    found, = tta.test_step(collate(views))
    proposals, (boxes, scores), masks = calls.values()
    assert len(proposals) == 60
    each_boxes, each_scores, each_masks = [], [], []
    with torch.no_grad():
        for img, sample in views:
            data = model.data_preprocessor(dict(inputs=[img], data_samples=[sample]), False)
            x = model.extract_feat(data['inputs'])
            width, (sw, sh) = sample.img_shape[1], sample.scale_factor
            scale = torch.tensor([sw, sh, sw, sh])

            def mirrored(b):
                return torch.stack([width - b[:, 2], b[:, 1], width - b[:, 0], b[:, 3]], 1) if sample.flip else b
            kwargs = dict(semantic_feat=None) if name == 'htc' else {}
            raw, = model.roi_head.predict_bbox(x, [sample.metainfo], [InstanceData(bboxes=mirrored(proposals * scale))],
                                               rcnn_test_cfg=None, rescale=False, **kwargs)
            each_boxes.append((mirrored(raw.bboxes.view(-1, 4)) / scale).view(len(proposals), -1))
            each_scores.append(raw.scores)
            pred = found.pred_instances
            rois = torch.cat([torch.zeros(len(pred), 1), mirrored(pred.bboxes * scale)], 1)
            stages = [()] if name == 'mask rcnn' else [(0,), (1,), (2,)]
            logits = [model.roi_head._mask_forward(*stage, x, rois)['mask_preds'] for stage in stages]
            mean = torch.stack([p.sigmoid() for p in logits]).mean(0)[range(len(pred)), pred.labels]
            each_masks.append(mean.flip(-1) if sample.flip else mean)
    torch.testing.assert_close(boxes, torch.stack(each_boxes).mean(0), rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(scores, torch.stack(each_scores).mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(masks, torch.stack(each_masks).mean(0), rtol=1e-5, atol=1e-5)
    assert (torch.stack(each_masks) - masks).abs().max() > .05  # views differ


def test_where_features_are_kept_does_not_change_the_result(monkeypatch):
    model, runs = detector('htc semantic'), []
    extract = model.extract_feat
    monkeypatch.setattr(model, 'extract_feat', lambda x: runs.append(1) or extract(x))
    views = [view(image()), view(image(), 1.2, 'horizontal')]
    kept, *others = [wrap(model, features=features).test_step(collate(views))[0].pred_instances
                     for features in ('keep', 'cpu', 'recompute')]
    assert len(runs) == 2 + 2 + 6
    for other in others:
        assert_same(other, kept, atol=0)


def with_proposals(monkeypatch, model, *numbers):
    """Gives each view some of its proposals."""
    predict, numbers = model.rpn_head.predict, list(numbers)
    monkeypatch.setattr(model.rpn_head, 'predict', lambda x, samples, rescale: [
        predict(x, samples, rescale=rescale)[0][:numbers.pop(0)]])


@pytest.mark.parametrize('name', ['htc', 'mask rcnn', 'faster rcnn'])
def test_a_view_without_proposals(monkeypatch, name):
    model = detector(name)
    with_proposals(monkeypatch, model, 0, 40)
    found, = wrap(model).test_step(collate([view(image()), view(image(), .7)]))
    assert len(found.pred_instances) > 0 and found.pred_instances.scores.isfinite().all()


@pytest.mark.parametrize('views', [1, 2])
@pytest.mark.parametrize('name', ['htc', 'mask rcnn', 'faster rcnn'])
def test_an_image_without_proposals_and_one_without_detections(monkeypatch, name, views):
    model = detector(name)
    data = collate([view(image()), view(image(), .7, 'horizontal')][:views])
    nothing, = wrap(model, tta_cfg=dict(score_thr=1.)).test_step(copy.deepcopy(data))
    with_proposals(monkeypatch, model, *[0] * views)
    none, = wrap(model).test_step(data)
    for result in (nothing.pred_instances, none.pred_instances):
        assert result.bboxes.shape == (0, 4) and result.scores.shape == (0,) and result.labels.dtype == torch.int64
        assert ('masks' in result) == (name != 'faster rcnn')
        assert list(result.get('masks', [])) == []


def test_more_than_a_thousand_proposals():
    cfg = config('mask rcnn')
    cfg.test_cfg.rpn = dict(nms_pre=2000, max_per_img=1500, nms=dict(type='nms', iou_threshold=.95), min_bbox_size=0)
    tta = wrap(build(cfg))
    counts = []
    average = tta._average_boxes
    tta._average_boxes = lambda views, boxes: counts.append(len(boxes)) or average(views, boxes)
    found, = tta.test_step(collate([view(image(size=(320, 448)), .8), view(image(size=(320, 448)), 1., 'horizontal')]))
    assert counts[0] > 1000
    assert len(found.pred_instances) == 20
    assert found.pred_instances.masks.numpy().shape == (20, 320, 448)


def test_several_images_at_once():
    model = detector('htc')
    tta = wrap(model)
    images = [image(0), image(1, (70, 101))]
    one_by_one = [tta.test_step(collate([view(i), view(i, 1.3, 'horizontal')]))[0] for i in images]
    views = [[view(i) for i in images], [view(i, 1.3, 'horizontal') for i in images]]
    together = tta.test_step(dict(inputs=[[v[0] for v in vs] for vs in views],
                                  data_samples=[[v[1] for v in vs] for vs in views]))
    for a, b, i in zip(together, one_by_one, images):
        assert_same(a.pred_instances, b.pred_instances, tuple(i.shape[1:]), atol=0)


@pytest.mark.parametrize('ranges, sizes, used', [
    (None, [(10, 10), (25, 25), (20, 80)], [[True] * 3] * 2),
    ([(None, 30), (20, None)], [(10, 10), (25, 25), (20, 80)], [[True, True, False], [False, True, True]]),
    ([(0, 20), (50, None)], [(10, 10), (25, 25), (100, 100)], [[True, True, False], [False, True, True]])])
def test_views_are_used_for_objects_of_their_sizes(ranges, sizes, used):
    """And all of them for those in no range."""
    boxes = torch.tensor([[0, 0, *size] for size in sizes], dtype=torch.float32)
    views = [tta_module.View({}, view(image())[1], None, None) for _ in range(2)]
    wrap(detector('faster rcnn'), size_ranges=ranges)._set_sizes(views)
    assert tta_module.used_views(views, boxes).tolist() == used


def test_ranges_of_sizes_choose_views(monkeypatch):
    model = detector('mask rcnn')
    views = [view(image()), view(image(), 1.5)]
    # everything is of the second view: the first gives proposals alone
    asked = []
    predict = model.roi_head.predict_bbox
    monkeypatch.setattr(model.roi_head, 'predict_bbox', lambda x, metas, *a, **k: (
        asked.append(metas[0]['img_shape']) or predict(x, metas, *a, **k)))
    found, = wrap(model, size_ranges=[(1e6, None), (0, None)]).test_step(collate(views))
    assert len(found.pred_instances) > 0 and asked == [views[1][1].img_shape]
    # a range per scale
    tta = wrap(model, size_ranges=[(None, 30), (20, None)])
    flips = [view(image(), s, f) for s in (1., 1.5) for f in (None, 'horizontal')]
    assert len(tta.test_step(collate(flips))[0].pred_instances) > 0
    with pytest.raises(ValueError, match='size_ranges must be one per view where views of a scale do not follow'):
        tta.test_step(collate([flips[0], flips[2], flips[1], flips[3]]))
    with pytest.raises(ValueError, match='size_ranges must have a range for each view or scale, got 2 for 3 views'):
        tta.test_step(collate(flips[:3]))


@pytest.mark.parametrize('options, message', [
    (dict(features='disk'), "features must be one of keep, cpu, recompute, got 'disk'"),
    (dict(tta_cfg=dict(iou=.5)), r"tta_cfg must have no key but score_thr, .*got \['iou'\]"),
    (dict(size_ranges=[(1, 2, 3)]), r'size_ranges must be pairs .*got \(1, 2, 3\)'),
    (dict(size_ranges=[(30, 20)]), r'0 <= least < limit, got \(30, 20\)'),
    (dict(size_ranges=[]), r'size_ranges must be a list of >= 1 ranges, or None, got \[\]'),
    (dict(size_ranges=32), 'size_ranges must be a list of >= 1 ranges, or None, got 32'),
])
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        wrap(detector('faster rcnn'), **options)


@pytest.mark.parametrize('meta, message', [
    (dict(scale_factor=None), 'tta_pipeline must resize, and list scale_factor'),
    (dict(flip=True), "list flip_direction .*got flip_direction=None"),
    (dict(scale_factor=(1., 2.)), r'resize and flip alone .*should be \(186, 131\), got \(93, 131\)')])
def test_views_must_say_where_they_come_from(meta, message):
    img, sample = view(image())
    sample.set_metainfo(meta)
    with pytest.raises(ValueError, match=message):
        wrap(detector('htc')).test_step(collate([(img, sample), view(image())]))


def test_views_of_one_size_must_say_how_they_are_flipped():
    tta, (img, sample) = wrap(detector('htc')), view(image())
    without = DetDataSample(metainfo={k: v for k, v in sample.metainfo.items() if not k.startswith('flip')})
    assert len(tta.test_step(collate([(img, without)]))) == 1
    with pytest.raises(ValueError, match='list flip and flip_direction in the meta_keys'):
        tta.test_step(collate([(img, without), (img.flip(-1), without)]))


def test_views_and_samples_must_be_there():
    tta = wrap(detector('faster rcnn'))
    whole = collate([view(image()), view(image(), flip='horizontal')])
    with pytest.raises(ValueError, match='data must hold >= 1 view .*got no views'):
        tta.test_step(collate([]))
    with pytest.raises(ValueError, match='data_samples for each view in inputs, 2, got 1'):
        tta.test_step(dict(whole, data_samples=whole['data_samples'][:1]))


def test_heads_with_predictions_of_their_own_are_refused(monkeypatch):
    from mmdet.models.roi_heads import StandardRoIHead
    model = detector('mask rcnn')

    class Other(StandardRoIHead):
        def predict_mask(self, *args, **kwargs):
            pass
    monkeypatch.setattr(model.roi_head, '__class__', Other)
    with pytest.raises(ValueError, match='with the predict_mask of that class, got Other'):
        wrap(model)


def test_single_stage_detectors_fall_back_to_boxes():
    from mmdet.models.test_time_augs import DetTTAModel
    cfg = config('htc')
    neck = dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=48, num_outs=5, start_level=1,
                add_extra_convs='on_output')
    model = build(ConfigDict(
        type='RetinaNet', data_preprocessor=cfg.data_preprocessor, backbone=cfg.backbone, neck=neck,
        bbox_head=dict(type='RetinaHead', num_classes=4, in_channels=48, stacked_convs=1, feat_channels=48),
        train_cfg=None, test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=.3, max_per_img=30,
                                      nms=dict(type='nms', iou_threshold=.5))))
    views = [view(image()), view(image(), 1.2, 'horizontal')]
    found, = wrap(model).test_step(collate(views))
    wanted, = DetTTAModel(ConfigDict(nms=dict(type='nms', iou_threshold=.5), max_per_img=30),
                          module=model).test_step(collate(views))
    assert_same(found.pred_instances, wanted.pred_instances, atol=0)
    assert 'masks' not in found.pred_instances


def test_encoded_masks_are_selected_drawn_and_decoded():
    masks = np.zeros((3, 20, 30), dtype=np.uint8)
    masks[0, 2:9, 3:8] = masks[1, 5:, 20:] = masks[2, 0, 0] = 1
    rles = RLEMasks((coco_mask.encode(np.asfortranarray(m)) for m in masks), size=(20, 30))
    boxes = torch.tensor([[3., 2, 8, 9], [20, 5, 30, 20], [0, 0, 1, 1]])
    result = InstanceData(bboxes=boxes, scores=torch.tensor([.9, .1, .8]), labels=torch.zeros(3).long(), masks=rles)
    kept = result[result.scores > .5]
    assert np.array_equal(kept.masks.numpy(), masks[[0, 2]])
    assert np.array_equal(kept.masks.astype(bool), masks[[0, 2]].astype(bool))
    assert kept[kept.scores > 1].masks.numpy().shape == (0, 20, 30)
    assert pickle.loads(pickle.dumps(rles)).size == (20, 30)
    assert copy.deepcopy(rles) == rles
    visualizer = DetLocalVisualizer()
    visualizer.dataset_meta = dict(classes=('a',), palette=[(255, 0, 0)])
    sample = DetDataSample(pred_instances=result)
    picture = np.zeros((20, 30, 3), dtype=np.uint8)
    visualizer.add_datasample('x', picture, sample, draw_gt=False, pred_score_thr=.5)
    assert visualizer.get_image().any()
    visualizer.add_datasample('y', picture, sample, draw_gt=False, pred_score_thr=.95)  # nothing is above it
