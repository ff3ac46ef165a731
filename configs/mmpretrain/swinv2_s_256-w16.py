# SwinV2-S on ImageNet-1K at 256 px, window 16, from random weights (the release's configs/swinv2).
_base_ = [
    '../_base_/backbones/swinv2_s.py', './_base_/models/swinv2_classifier.py', './_base_/datasets/imagenet_256.py',
    './_base_/schedules/adamw_300e.py', './_base_/default_runtime.py'
]

model = dict(
    backbone=dict(
        _base_.swinv2,
        window_size=[16, 16, 16, 8],
        pretrained_window_sizes=[16, 16, 16, 8],
        drop_path_rate=0.3,
        init_cfg=None),
    head=dict(in_channels=_base_.channels[3]))
