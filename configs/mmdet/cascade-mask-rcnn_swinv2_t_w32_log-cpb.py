# Cascade Mask R-CNN with SwinV2-T, window 32, log_cpb: the ablation of Table 1 (51.8 box AP in the paper).
# The recipe of window 32 is not described there: that of window 16 is taken.
_base_ = [
    './_base_/models/cascade-mask-rcnn_swinv2_fpn.py', './_base_/datasets/coco_instance_ms-480-800.py',
    './_base_/schedules/adamw_1e-4_3x.py', './_base_/tta_ms-600-1600.py', './_base_/default_runtime.py'
]

# released weights, IN-1K at 256 px, window 8
pretrained = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/' \
    'swinv2_tiny_patch4_window8_256.pth'
model = dict(
    backbone=dict(
        arch='tiny',
        window_size=[32, 32, 32, 32],  # the last not halved: it was not in pre-training
        pretrained_window_sizes=[8, 8, 8, 8],
        position_bias='log_cpb',
        init_cfg=dict(type='Pretrained', checkpoint=pretrained)))
