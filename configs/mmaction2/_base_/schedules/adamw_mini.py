# For the demo: minutes on a CPU.
_base_ = '../../../_base_/schedules/adamw.py'

max_iters = 1200
train_cfg = dict(type='mmswinv2.IterBasedTrainLoop', max_iters=max_iters)  # no validation: `mim test` follows
val_cfg = None
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', eta_min=0., by_epoch=False, begin=60, end=max_iters)
]
optim_wrapper = dict(optimizer=dict(lr=2e-3, fused=True), clip_grad=dict(max_norm=5.))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
