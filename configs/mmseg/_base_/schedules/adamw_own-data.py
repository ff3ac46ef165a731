# A short schedule for data of one's own on one GPU, nobody's recipe: AdamW 1e-4 for 8 images, a tenth of that in the
# backbone, which keeps what it knows, gradients clipped at a norm of 1, 2000 iterations.
_base_ = '../../../_base_/schedules/adamw.py'

max_iters = 2000
warm_up = 100
train_cfg = dict(type='mmswinv2.IterBasedTrainLoop', max_iters=max_iters, val_interval=500)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=warm_up),
    dict(type='PolyLR', eta_min=0., power=1.0, by_epoch=False, begin=warm_up, end=max_iters)
]
optim_wrapper = dict(
    paramwise_cfg=dict(backbone_lr_mult=0.1, layer_decay_rate=1.0),
    optimizer=dict(lr=1e-4),
    clip_grad=dict(max_norm=1.0))
auto_scale_lr = dict(enable=False, base_batch_size=8)
