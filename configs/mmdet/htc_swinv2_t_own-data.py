# HTC++ with SwinV2-T for data of one's own, at 1024 px and window 32, on one GPU, from weights on ImageNet: the base of
# a config that names files and classes (docs/own_data.md). Sizes and schedule are our choice.
_base_ = [
    '../_base_/backbones/swinv2_t.py', './_base_/models/htc-pp_swinv2_fpn.py',
    './_base_/datasets/own_instances_1024.py', './_base_/schedules/adamw_own-data.py', './_base_/tta_ms-600-1600.py',
    './_base_/default_runtime.py'
]

model = dict(
    backbone=dict(window_size=_base_.window_32, with_cp=True, **_base_.swinv2),
    neck=dict(in_channels=_base_.channels))
default_hooks = _base_.hooks_by_iteration
log_processor = dict(by_epoch=False)
