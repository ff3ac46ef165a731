# Mask2Former (arXiv:2112.01527) with a SwinV2 backbone, for a leaf on mmdet's own recipe with Swin, which drop path and
# the learning rate of the backbone are those of; windows of 32 at 1024 px are our choice.
_base_ = '../../../_base_/plugin.py'

mask2former_backbone = dict(
    _delete_=True,
    type='mmswinv2.SwinTransformerV2',
    window_size=[32, 32, 32, 16],
    drop_path_rate=0.3,
    with_cp=True,
    autocast_dtype='bfloat16')
mask2former_optim_wrapper = dict(
    constructor='mmswinv2.SwinOptimWrapperConstructor',
    paramwise_cfg=dict(
        _delete_=True,
        backbone_lr_mult=0.1,
        no_decay=('logit_scale', 'cpb_mlp', 'relative_position_bias_table', 'query_embed', 'query_feat',
                  'level_embed')))
