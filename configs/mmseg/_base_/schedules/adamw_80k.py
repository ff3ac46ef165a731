# AdamW 4e-5, batch 32, 80,000 iterations, linear decay, warm-up of 750 (arXiv:2111.09883, appendix A2, SwinV2-G). Not
# stated there and our choice: no layer-wise decay; gradients clipped at a norm of 1, since a step of 3B parameters that
# goes astray costs days.
_base_ = '../../../_base_/schedules/adamw.py'

max_iters = 80000
warm_up = 750
train_cfg = dict(type='mmswinv2.IterBasedTrainLoop', max_iters=max_iters, val_interval=8000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=warm_up),
    dict(type='PolyLR', eta_min=0., power=1.0, by_epoch=False, begin=warm_up, end=max_iters)
]
optim_wrapper = dict(
    paramwise_cfg=dict(backbone_lr_mult=1.0, layer_decay_rate=1.0),
    # fused: without another copy of the parameters, 12 GiB of SwinV2-G's, during the step
    optimizer=dict(lr=4e-5, fused=True),
    clip_grad=dict(max_norm=1.0))
auto_scale_lr = dict(enable=False, base_batch_size=32)
