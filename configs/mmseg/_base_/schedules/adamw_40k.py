# AdamW 6e-5, batch 64, 40,000 iterations, linear decay, warm-up of 375 (arXiv:2111.09883, appendix A2, SwinV2-L).
# Layer-wise decay is not stated there: none, our choice.
_base_ = '../../../_base_/schedules/adamw.py'

max_iters = 40000
warm_up = 375
train_cfg = dict(type='mmswinv2.IterBasedTrainLoop', max_iters=max_iters, val_interval=4000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=warm_up),
    dict(type='PolyLR', eta_min=0., power=1.0, by_epoch=False, begin=warm_up, end=max_iters)
]
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr_mult=1.0, layer_decay_rate=1.0), optimizer=dict(lr=6e-5))
auto_scale_lr = dict(enable=False, base_batch_size=64)
