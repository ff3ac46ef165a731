# AdamW 1e-4, weight decay 0.05, batch 16, 3x (arXiv:2111.09883, appendix A1.2). Steps at 27 and 33 are those of Swin V1
# (arXiv:2103.14030, appendix A2.2); a warm-up of 500 iterations is mmdet's.
train_cfg = dict(type='mmswinv2.EpochBasedTrainLoop', max_epochs=36, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1)
]
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmswinv2.SwinOptimWrapperConstructor',
    paramwise_cfg=dict(backbone_lr_mult=1.0, layer_decay_rate=1.0),
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05))
auto_scale_lr = dict(enable=False, base_batch_size=16)
