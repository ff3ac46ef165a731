# SwinV2-T on ImageNet-1K at 256 px, window 8, from random weights (the release's configs/swinv2).
# Table 1 (arXiv:2111.09883) has two more position biases: --cfg-options model.backbone.position_bias=linear_cpb, or
# parameterized.
_base_ = [
    '../_base_/backbones/swinv2_t.py', './_base_/models/swinv2_classifier.py', './_base_/datasets/imagenet_256.py',
    './_base_/schedules/adamw_300e.py', './_base_/default_runtime.py'
]

model = dict(
    backbone=dict(
        _base_.swinv2,
        window_size=[8, 8, 8, 8],
        pretrained_window_sizes=[8, 8, 8, 8],
        drop_path_rate=0.2,
        init_cfg=None),
    head=dict(in_channels=_base_.channels[3]))
