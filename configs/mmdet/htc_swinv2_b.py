# HTC++ with SwinV2-B on COCO at 1536 px, window 32; the backbone and its global attention in bfloat16.
_base_ = [
    '../_base_/backbones/swinv2_b.py', './_base_/models/htc-pp_swinv2_fpn.py',
    './_base_/datasets/coco_instance_lsj-1536.py', './_base_/schedules/adamw_3x.py', './_base_/tta_ms-600-1600.py',
    './_base_/default_runtime.py'
]

model = dict(
    backbone=dict(window_size=_base_.window_32, with_cp=True, autocast_dtype='bfloat16', **_base_.swinv2),
    neck=dict(in_channels=_base_.channels))
