# AdamW 6e-5, weight decay 0.05, batch 64, 40,000 iterations, linear decay, warm-up of 375 (arXiv:2111.09883, appendix
# A2, SwinV2-L). Layer-wise decay is not stated there: none, our choice.
train_cfg = dict(type='mmswinv2.IterBasedTrainLoop', max_iters=40000, val_interval=4000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=375),
    dict(type='PolyLR', eta_min=0., power=1.0, by_epoch=False, begin=375, end=40000)
]
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmswinv2.SwinOptimWrapperConstructor',
    paramwise_cfg=dict(backbone_lr_mult=1.0, layer_decay_rate=1.0),
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.05))
auto_scale_lr = dict(enable=False, base_batch_size=64)
