# UperNet with SwinV2-B on ADE20K at 640 px, window 40, the last stage at half of it, as in pre-training;
# the recipe is that of SwinV2-L: our choice.
_base_ = [
    './_base_/models/upernet_swinv2.py', './_base_/datasets/ade20k_640.py', './_base_/schedules/adamw_40k.py',
    './_base_/default_runtime.py'
]

# released weights, IN-22K at 192 px
pretrained = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/' \
    'swinv2_base_patch4_window12_192_22k.pth'
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(
        arch='base',
        window_size=[40, 40, 40, 20],
        pretrained_window_sizes=[12, 12, 12, 6],
        with_cp=False,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained)),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512))
