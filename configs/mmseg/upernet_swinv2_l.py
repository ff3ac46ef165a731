# UperNet with SwinV2-L on ADE20K at 640 px, window 40, the last stage at half of it, as in pre-training.
_base_ = [
    '../_base_/backbones/swinv2_l.py', './_base_/models/upernet_swinv2.py', './_base_/datasets/ade20k_640.py',
    './_base_/schedules/adamw_40k.py', './_base_/default_runtime.py'
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(window_size=_base_.window_40, with_cp=False, autocast_dtype='bfloat16', **_base_.swinv2),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]))
