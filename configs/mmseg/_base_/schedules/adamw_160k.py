# AdamW 4e-5, batch 16, 160,000 iterations, linear decay, warm-up of 1500, layer-wise decay 0.95 (arXiv:2111.09883,
# appendix A1.2, the ablation of SwinV2-T).
_base_ = '../../../_base_/schedules/adamw.py'

max_iters = 160000
warm_up = 1500
train_cfg = dict(type='mmswinv2.IterBasedTrainLoop', max_iters=max_iters, val_interval=16000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=warm_up),
    dict(type='PolyLR', eta_min=0., power=1.0, by_epoch=False, begin=warm_up, end=max_iters)
]
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr_mult=1.0, layer_decay_rate=0.95), optimizer=dict(lr=4e-5))
auto_scale_lr = dict(enable=False, base_batch_size=16)
