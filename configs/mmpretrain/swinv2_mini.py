# A small SwinV2 on the small data set of demos/make_mini_imagenet.py: what `make demo-cls` runs, tested at larger
# images and windows.
_base_ = [
    '../_base_/backbones/swinv2_mini_32px.py', './_base_/models/swinv2_classifier.py',
    './_base_/datasets/mini_imagenet.py', './_base_/schedules/adamw_mini.py', './_base_/default_runtime.py'
]

num_classes = 10
model = dict(
    data_preprocessor=dict(num_classes=num_classes),
    backbone=_base_.swinv2,
    head=dict(num_classes=num_classes, in_channels=_base_.channels[2]),
    train_cfg=None)
default_hooks = dict(
    logger=dict(interval=25, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=100, max_keep_ckpts=1))
