# UperNet with SwinV2-T at 512 px, window 16, log_cpb: the ablation of Table 1 (47.0 mIoU in the paper).
_base_ = [
    './_base_/models/upernet_swinv2.py', './_base_/datasets/ade20k_512.py', './_base_/schedules/adamw_160k.py',
    './_base_/default_runtime.py'
]

# released weights, IN-1K at 256 px, window 8
pretrained = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/' \
    'swinv2_tiny_patch4_window8_256.pth'
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(
        arch='tiny',
        window_size=[16, 16, 16, 16],  # the last not halved: it was not in pre-training
        pretrained_window_sizes=[8, 8, 8, 8],
        position_bias='log_cpb',
        init_cfg=dict(type='Pretrained', checkpoint=pretrained)))
