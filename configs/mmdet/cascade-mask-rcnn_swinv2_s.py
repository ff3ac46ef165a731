# Cascade Mask R-CNN with SwinV2-S on COCO, short side 480 to 800 px: the recipe of Table 1 (arXiv:2111.09883, appendix
# A1.2) with the weights of classification at 256 or 192 px and windows of 32, our choice.
_base_ = [
    '../_base_/backbones/swinv2_s.py', './_base_/models/cascade-mask-rcnn_swinv2_fpn.py',
    './_base_/datasets/coco_instance_ms-480-800.py', './_base_/schedules/adamw_1e-4_3x.py',
    './_base_/tta_ms-600-1600.py', './_base_/default_runtime.py'
]

model = dict(
    backbone=dict(window_size=_base_.window_32, **_base_.swinv2),
    neck=dict(in_channels=_base_.channels))
