# Mask2Former (arXiv:2112.01527) with a SwinV2 backbone on ADE20K at 640 px: mmseg's recipe with Swin-B; drop path and
# the learning rate of the backbone are its own. Windows of 40, as UperNet's, are our choice.
_base_ = [
    'mmseg::mask2former/mask2former_swin-b-in1k-384x384-pre_8xb2-160k_ade20k-640x640.py', '../../../_base_/plugin.py'
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmswinv2.SwinTransformerV2',
        window_size=[40, 40, 40, 20],
        drop_path_rate=0.3,
        autocast_dtype='bfloat16'))
optim_wrapper = dict(
    constructor='mmswinv2.SwinOptimWrapperConstructor',
    paramwise_cfg=dict(
        _delete_=True,
        backbone_lr_mult=0.1,
        no_decay=('logit_scale', 'cpb_mlp', 'relative_position_bias_table', 'query_embed', 'query_feat',
                  'level_embed')))
train_cfg = dict(type='mmswinv2.IterBasedTrainLoop')
default_hooks = dict(
    _base_.plugin_hooks, checkpoint=dict(type='mmswinv2.CheckpointHook', max_keep_ckpts=2, save_best='mIoU'))
env_cfg = _base_.plugin_env_cfg
