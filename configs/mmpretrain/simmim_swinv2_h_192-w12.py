# SimMIM of SwinV2-H at 192 px, window 12, from random weights: the recipe of B,
# whose changes for H were not released.
_base_ = [
    '../_base_/backbones/swinv2_h.py', './_base_/models/simmim_swinv2.py',
    './_base_/datasets/imagenet_192_simmim.py', './_base_/schedules/adamw_800e_simmim.py',
    './_base_/default_runtime.py',
    '../_base_/sharding/fsdp.py'
]

model = dict(
    backbone=dict(_base_.swinv2, window_size=[12, 12, 12, 6], with_cp=True, autocast_dtype='bfloat16', init_cfg=None),
    neck=dict(in_channels=_base_.channels[3]))
train_dataloader = dict(batch_size=64)  # on 8 GPUs, 4 passes: 2048
optim_wrapper = dict(accumulative_counts=4)
