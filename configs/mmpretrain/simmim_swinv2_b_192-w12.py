# SimMIM of SwinV2-B at 192 px, window 12, from random weights: the release's
# configs/simmim/simmim_pretrain__swinv2_base__img192_window12__800ep.yaml.
_base_ = [
    '../_base_/backbones/swinv2_b.py', './_base_/models/simmim_swinv2.py',
    './_base_/datasets/imagenet_192_simmim.py', './_base_/schedules/adamw_800e_simmim.py',
    './_base_/default_runtime.py'
]

model = dict(
    backbone=dict(_base_.swinv2, window_size=[12, 12, 12, 6], init_cfg=None),
    neck=dict(in_channels=_base_.channels[3]))
