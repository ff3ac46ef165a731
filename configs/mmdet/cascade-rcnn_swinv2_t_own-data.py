# Cascade R-CNN with SwinV2-T for boxes of one's own, without masks, at 1024 px and window 32, on one GPU, from weights
# on ImageNet: what htc_swinv2_t_own-data.py is for boxes with masks (docs/own_data.md). Sizes and schedule are our
# choice.
_base_ = [
    '../_base_/backbones/swinv2_t.py', './_base_/models/cascade-mask-rcnn_swinv2_fpn.py',
    './_base_/datasets/own_instances_1024.py', './_base_/schedules/adamw_own-data.py', './_base_/tta_ms-600-1600.py',
    './_base_/default_runtime.py'
]

model = dict(
    backbone=dict(window_size=_base_.window_32, with_cp=True, **_base_.swinv2),
    neck=dict(in_channels=_base_.channels),
    roi_head=dict(mask_roi_extractor=None, mask_head=None))
boxes = dict(type='LoadAnnotations', with_bbox=True)
train_pipeline = [_base_.train_pipeline[0], boxes, *_base_.train_pipeline[2:]]
test_pipeline = [*_base_.test_pipeline[:2], boxes, _base_.test_pipeline[3]]
scales, (flips, _, pack) = _base_.tta_pipeline[1].transforms[0], _base_.tta_views
tta_pipeline = [_base_.tta_pipeline[0], dict(type='TestTimeAug', transforms=[scales, flips, [boxes], pack])]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
default_hooks = _base_.hooks_by_iteration
log_processor = dict(by_epoch=False)
