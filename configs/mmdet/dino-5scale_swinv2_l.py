# DINO (arXiv:2203.03605) with SwinV2-L and five scales on COCO: mmdet's recipe with Swin-L, 12 epochs, and the
# backbone in bfloat16. Windows of 32 are our choice.
_base_ = [
    'mmdet::dino/dino-5scale_swin-l_8xb2-12e_coco.py', '../_base_/backbones/swinv2_l.py', '../_base_/plugin.py'
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmswinv2.SwinTransformerV2',
        window_size=[32, 32, 32, 16],
        drop_path_rate=0.2,
        with_cp=True,
        autocast_dtype='bfloat16',
        **_base_.swinv2))
optim_wrapper = dict(
    constructor='mmswinv2.SwinOptimWrapperConstructor', paramwise_cfg=dict(_delete_=True, backbone_lr_mult=0.1))
train_cfg = dict(type='mmswinv2.EpochBasedTrainLoop')
default_hooks = dict(_base_.plugin_hooks, checkpoint=dict(type='mmswinv2.CheckpointHook', save_best='coco/bbox_mAP'))
env_cfg = _base_.plugin_env_cfg
auto_scale_lr = dict(enable=False)
