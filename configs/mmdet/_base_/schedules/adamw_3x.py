# AdamW 4e-4, weight decay 0.05, batch 64, 3x (36 epochs, steps at 27 and 33), backbone learning rate 0.1 of the
# heads' (arXiv:2111.09883, appendix A2, SwinV2-B/L). The warm-up of 1000 iterations is our choice.
train_cfg = dict(type='mmswinv2.EpochBasedTrainLoop', max_epochs=36, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1)
]
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmswinv2.SwinOptimWrapperConstructor',
    paramwise_cfg=dict(backbone_lr_mult=0.1, layer_decay_rate=1.0),
    optimizer=dict(type='AdamW', lr=4e-4, betas=(0.9, 0.999), weight_decay=0.05))
auto_scale_lr = dict(enable=False, base_batch_size=64)
