# AdamW 4e-5, weight decay 0.05, batch 16, 160,000 iterations, linear decay, warm-up of 1500, layer-wise decay 0.95
# (arXiv:2111.09883, appendix A1.2, the ablation of SwinV2-T).
train_cfg = dict(type='mmswinv2.IterBasedTrainLoop', max_iters=160000, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0., power=1.0, by_epoch=False, begin=1500, end=160000)
]
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmswinv2.SwinOptimWrapperConstructor',
    paramwise_cfg=dict(backbone_lr_mult=1.0, layer_decay_rate=0.95),
    optimizer=dict(type='AdamW', lr=4e-5, betas=(0.9, 0.999), weight_decay=0.05))
auto_scale_lr = dict(enable=False, base_batch_size=16)
