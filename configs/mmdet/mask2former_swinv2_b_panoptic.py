# Mask2Former with SwinV2-B, panoptic, on COCO at 1024 px, the backbone in bfloat16.
_base_ = [
    'mmdet::mask2former/mask2former_swin-b-p4-w12-384-in21k_8xb2-lsj-50e_coco-panoptic.py',
    '../_base_/backbones/swinv2_b.py', './_base_/models/mask2former_swinv2.py'
]

model = dict(
    backbone=dict(_base_.mask2former_backbone, **_base_.swinv2),
    panoptic_head=dict(in_channels=_base_.channels))
optim_wrapper = _base_.mask2former_optim_wrapper
train_cfg = dict(type='mmswinv2.IterBasedTrainLoop')
default_hooks = dict(
    _base_.plugin_hooks,
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(type='mmswinv2.CheckpointHook', save_best='coco_panoptic/PQ'))
env_cfg = _base_.plugin_env_cfg
