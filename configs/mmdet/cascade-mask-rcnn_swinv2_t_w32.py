# Cascade Mask R-CNN with SwinV2-T, window 32: a column of Table 1 (arXiv:2111.09883).
# The recipe of window 32 is not described there: that of window 16 is taken.
# The other position biases: --cfg-options model.backbone.position_bias=linear_cpb, or parameterized, with
# model.backbone.init_cfg.checkpoint=FILE (IN-1K at 256 px, window 8), since none were released for them.
_base_ = [
    '../_base_/backbones/swinv2_t_w8.py', './_base_/models/cascade-mask-rcnn_swinv2_fpn.py',
    './_base_/datasets/coco_instance_ms-480-800.py', './_base_/schedules/adamw_1e-4_3x.py',
    './_base_/tta_ms-600-1600.py', './_base_/default_runtime.py'
]

model = dict(
    # the last window not halved: it was not in pre-training
    backbone=dict(window_size=[32] * 4, **_base_.swinv2),
    neck=dict(in_channels=_base_.channels))
