# Mask2Former with SwinV2-L, panoptic, on COCO at 1024 px, the backbone in bfloat16: mmdet's recipe with Swin-L, 100
# epochs.
_base_ = [
    'mmdet::mask2former/mask2former_swin-l-p4-w12-384-in21k_16xb1-lsj-100e_coco-panoptic.py',
    '../_base_/backbones/swinv2_l.py', './_base_/models/mask2former_swinv2.py'
]

model = dict(
    backbone=dict(_base_.mask2former_backbone, **_base_.swinv2),
    panoptic_head=dict(in_channels=_base_.channels))
# 8 GPUs x 1 image x 2 passes = 16; iterations are steps of the optimizer
optim_wrapper = dict(_base_.mask2former_optim_wrapper, accumulative_counts=2)
train_cfg = dict(type='mmswinv2.IterBasedTrainLoop')
default_hooks = dict(
    _base_.plugin_hooks,
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(type='mmswinv2.CheckpointHook', save_best='coco_panoptic/PQ'))
env_cfg = _base_.plugin_env_cfg
