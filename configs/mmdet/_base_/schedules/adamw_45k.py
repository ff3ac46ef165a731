# AdamW 6e-4, weight decay 0.05, batch 96, 45,000 iterations, 36.5 epochs of COCO (arXiv:2111.09883, appendix A2,
# SwinV2-G). Not stated there and our choice: steps at the same fractions as in 3x, a warm-up of 1000 iterations, the
# backbone's factor of 0.1 (stated for B and L), no layer-wise decay, gradients clipped at a norm of 1, as in the
# authors' dense code (AiT on COCO): nobody trained 3B parameters here, and a step that goes astray costs days.
train_cfg = dict(type='mmswinv2.IterBasedTrainLoop', max_iters=45000, val_interval=2500)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=45000, by_epoch=False, milestones=[33750, 41250], gamma=0.1)
]
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmswinv2.SwinOptimWrapperConstructor',
    paramwise_cfg=dict(backbone_lr_mult=0.1, layer_decay_rate=1.0),
    # fused: without another copy of the parameters, 12 GiB of SwinV2-G's, during the step
    optimizer=dict(type='AdamW', lr=6e-4, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=1.0))
auto_scale_lr = dict(enable=False, base_batch_size=96)
