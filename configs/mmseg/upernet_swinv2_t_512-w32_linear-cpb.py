# UperNet with SwinV2-T at 512 px, window 32, linear_cpb: the ablation of Table 1 (47.2 mIoU in the paper);
# the size of images for window 32 is not stated there: that of window 16 is taken.
_base_ = [
    './_base_/models/upernet_swinv2.py', './_base_/datasets/ade20k_512.py', './_base_/schedules/adamw_160k.py',
    './_base_/default_runtime.py'
]

# no weights with this position bias were released: name your own (IN-1K at 256 px, window 8) with
# --cfg-options model.backbone.init_cfg.checkpoint=FILE
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(
        arch='tiny',
        window_size=[32, 32, 32, 32],  # the last not halved: it was not in pre-training
        pretrained_window_sizes=[8, 8, 8, 8],
        position_bias='linear_cpb',
        init_cfg=dict(type='Pretrained', checkpoint=None)))
