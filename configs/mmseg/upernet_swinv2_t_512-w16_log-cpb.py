# UperNet with SwinV2-T at 512 px, window 16, log_cpb: the ablation of Table 1 (47.0 mIoU in the paper).
_base_ = [
    '../_base_/backbones/swinv2_t_w8.py', './_base_/models/upernet_swinv2.py', './_base_/datasets/ade20k_512.py',
    './_base_/schedules/adamw_160k.py', './_base_/default_runtime.py'
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(
        window_size=[16] * 4,  # the last not halved: it was not in pre-training
        position_bias='log_cpb',
        **_base_.swinv2),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]))
