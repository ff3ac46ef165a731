# SwinV2-L on ImageNet-22K at 192 px, window 12, from random weights (the release's configs/swinv2).
_base_ = [
    '../_base_/backbones/swinv2_l.py', './_base_/models/swinv2_classifier.py', './_base_/datasets/imagenet21k_192.py',
    './_base_/schedules/adamw_90e_22k.py', './_base_/default_runtime.py'
]

num_classes = 21841
model = dict(
    data_preprocessor=dict(num_classes=num_classes),
    backbone=dict(_base_.swinv2, window_size=[12, 12, 12, 6], init_cfg=None),
    head=dict(num_classes=num_classes, in_channels=_base_.channels[3]))
train_dataloader = dict(batch_size=64)  # on 8 GPUs, 8 passes: 4096
optim_wrapper = dict(accumulative_counts=8)
