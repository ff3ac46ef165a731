# UperNet with SwinV2-L at 1536 px and window 32, with activation checkpointing: a variant of ours, with the detector's
# resolution and windows.
_base_ = [
    '../_base_/backbones/swinv2_l.py', './_base_/models/upernet_swinv2.py', './_base_/datasets/ade20k_1536.py',
    './_base_/schedules/adamw_40k.py', './_base_/default_runtime.py'
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(window_size=_base_.window_32, with_cp=True, autocast_dtype='bfloat16', **_base_.swinv2),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]))
# 8 GPUs x 1 image x 8 passes = 64; iterations are steps of the optimizer
optim_wrapper = dict(accumulative_counts=8)
