# UperNet with SwinV2-S on ADE20K at 640 px, window 40, the last stage at half of it, as in pre-training;
# the recipe is that of SwinV2-L: our choice.
_base_ = [
    './_base_/models/upernet_swinv2.py', './_base_/datasets/ade20k_640.py', './_base_/schedules/adamw_40k.py',
    './_base_/default_runtime.py'
]

# released weights, IN-1K at 256 px
pretrained = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/' \
    'swinv2_small_patch4_window16_256.pth'
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(
        arch='small',
        window_size=[40, 40, 40, 20],
        pretrained_window_sizes=[16, 16, 16, 8],
        with_cp=False,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained)),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))
