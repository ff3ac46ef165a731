# Mask2Former with SwinV2-L for instances of COCO at 1024 px, the backbone in bfloat16: mmdet's recipe with Swin-S, its
# largest for instances, with the 200 queries of its panoptic Swin-L.
_base_ = [
    'mmdet::mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py',
    '../_base_/backbones/swinv2_l.py', './_base_/models/mask2former_swinv2.py'
]

model = dict(
    backbone=dict(_base_.mask2former_backbone, **_base_.swinv2),
    panoptic_head=dict(in_channels=_base_.channels, num_queries=200))
optim_wrapper = _base_.mask2former_optim_wrapper
train_cfg = dict(type='mmswinv2.IterBasedTrainLoop')
default_hooks = dict(
    _base_.plugin_hooks,
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(type='mmswinv2.CheckpointHook', save_best='coco/segm_mAP'))
env_cfg = _base_.plugin_env_cfg
