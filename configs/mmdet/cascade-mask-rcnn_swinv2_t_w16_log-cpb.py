# Cascade Mask R-CNN with SwinV2-T, window 16, log_cpb: the ablation of Table 1 (51.1 box AP in the paper).
_base_ = [
    '../_base_/backbones/swinv2_t_w8.py', './_base_/models/cascade-mask-rcnn_swinv2_fpn.py',
    './_base_/datasets/coco_instance_ms-480-800.py', './_base_/schedules/adamw_1e-4_3x.py',
    './_base_/tta_ms-600-1600.py', './_base_/default_runtime.py'
]

model = dict(
    # the last window not halved: it was not in pre-training
    backbone=dict(window_size=[16] * 4, position_bias='log_cpb', **_base_.swinv2),
    neck=dict(type='FPN', in_channels=_base_.channels, out_channels=_base_.fpn_channels, num_outs=5))
