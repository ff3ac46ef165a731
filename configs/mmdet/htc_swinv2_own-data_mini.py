# HTC++ with a small SwinV2 for a trial of docs/own_data.md without a GPU: what htc_swinv2_t_own-data.py is, with the
# model of the demo, random weights and 192 px.
_base_ = ['./htc_swinv2_mini.py']

image_size = (192, 192)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', scale=image_size, ratio_range=(0.7, 1.3), keep_ratio=True),
    dict(type='RandomCrop', crop_type='absolute', crop_size=image_size, recompute_bbox=True, allow_negative_crop=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(2, 2)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_size, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
]
own = dict(type='mmswinv2.CocoInstances', data_root=None, ann_file='', data_prefix=dict(img=''))
train_dataloader = dict(dataset=dict(own, pipeline=train_pipeline))
val_dataloader = dict(
    _base_.test_dataloader, dataset=dict(_base_.test_dataloader.dataset, pipeline=test_pipeline, **own))
test_dataloader = dict(dataset=dict(own, pipeline=test_pipeline))
val_evaluator = dict(type='CocoMetric', ann_file=None, metric=['bbox', 'segm'], classwise=True)
test_evaluator = val_evaluator
max_iters = 150
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_iters)]
auto_scale_lr = dict(enable=False, base_batch_size=2)
default_hooks = dict(checkpoint=dict(save_best=None))
