# UperNet with SwinV2-T at 512 px, window 32: a column of Table 1 (arXiv:2111.09883);
# the size of images for window 32 is not stated there: that of window 16 is taken.
# The other position biases: --cfg-options model.backbone.position_bias=linear_cpb, or parameterized, with
# model.backbone.init_cfg.checkpoint=FILE (IN-1K at 256 px, window 8), since none were released for them.
_base_ = [
    '../_base_/backbones/swinv2_t_w8.py', './_base_/models/upernet_swinv2.py', './_base_/datasets/ade20k_512.py',
    './_base_/schedules/adamw_160k.py', './_base_/default_runtime.py'
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(
        window_size=[32] * 4,  # the last not halved: it was not in pre-training
        **_base_.swinv2),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]))
