# UperNet with SwinV2-G at 1536 px and window 32, with activation checkpointing: a variant of ours, with the detector's
# resolution and windows.
_base_ = [
    '../_base_/backbones/swinv2_g.py', './_base_/models/upernet_swinv2.py', './_base_/datasets/ade20k_1536.py',
    './_base_/schedules/adamw_80k.py', './_base_/default_runtime.py',
    '../_base_/sharding/fsdp.py'
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(
        window_size=_base_.window_32, with_cp=True, autocast_dtype='bfloat16', drop_path_rate=0.4, **_base_.swinv2),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]))
# 8 GPUs x 1 image x 4 passes = 32; iterations are steps of the optimizer
optim_wrapper = dict(accumulative_counts=4)
