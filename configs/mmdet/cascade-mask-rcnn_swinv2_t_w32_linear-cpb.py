# Cascade Mask R-CNN with SwinV2-T, window 32, linear_cpb: the ablation of Table 1 (51.7 box AP in the paper).
# The recipe of window 32 is not described there: that of window 16 is taken.
_base_ = [
    './_base_/models/cascade-mask-rcnn_swinv2_fpn.py', './_base_/datasets/coco_instance_ms-480-800.py',
    './_base_/schedules/adamw_1e-4_3x.py', './_base_/tta_ms-600-1600.py', './_base_/default_runtime.py'
]

# no weights with this position bias were released: name your own (IN-1K at 256 px, window 8) with
# --cfg-options model.backbone.init_cfg.checkpoint=FILE
model = dict(
    backbone=dict(
        arch='tiny',
        window_size=[32, 32, 32, 32],  # the last not halved: it was not in pre-training
        pretrained_window_sizes=[8, 8, 8, 8],
        position_bias='linear_cpb',
        init_cfg=dict(type='Pretrained', checkpoint=None)))
