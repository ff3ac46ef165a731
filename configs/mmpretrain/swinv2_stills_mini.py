# A small SwinV2 on stills of the clips of demos/make_mini_clips.py, for mmaction2/video_swinv2_mini.py to begin with.
_base_ = [
    '../_base_/backbones/swinv2_mini_32px_narrow.py', './_base_/models/swinv2_classifier.py',
    './_base_/datasets/mini_imagenet.py', './_base_/schedules/adamw_mini.py', './_base_/default_runtime.py'
]

num_classes = 4
stills = '{{$MMSWINV2_MINI_CLIPS:data/mini_clips/}}stills'
model = dict(
    data_preprocessor=dict(num_classes=num_classes),
    backbone=_base_.swinv2,
    head=dict(num_classes=num_classes, in_channels=_base_.channels[2]),
    train_cfg=None)
train_pipeline = [dict(type='LoadImageFromFile'), _base_.flip, dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(data_root=stills, pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(data_root=stills))
max_iters = 400
train_cfg = dict(max_iters=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', eta_min=0., by_epoch=False, begin=60, end=max_iters)
]
default_hooks = dict(
    logger=dict(interval=25, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=100, max_keep_ckpts=1))
