# AdamW 4e-5, weight decay 0.05, batch 32, 80,000 iterations, linear decay, warm-up of 750 (arXiv:2111.09883, appendix
# A2, SwinV2-G). Not stated there and our choice: no layer-wise decay; gradients clipped at a norm of 1, since a step of
# 3B parameters that goes astray costs days.
train_cfg = dict(type='mmswinv2.IterBasedTrainLoop', max_iters=80000, val_interval=8000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=750),
    dict(type='PolyLR', eta_min=0., power=1.0, by_epoch=False, begin=750, end=80000)
]
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmswinv2.SwinOptimWrapperConstructor',
    paramwise_cfg=dict(backbone_lr_mult=1.0, layer_decay_rate=1.0),
    # fused: without another copy of the parameters, 12 GiB of SwinV2-G's, during the step
    optimizer=dict(type='AdamW', lr=4e-5, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=1.0))
auto_scale_lr = dict(enable=False, base_batch_size=32)
