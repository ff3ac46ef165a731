# AdamW 4e-4, batch 64, 3x (36 epochs, steps at 27 and 33), backbone learning rate 0.1 of the heads' (arXiv:2111.09883,
# appendix A2, SwinV2-B/L). The warm-up of 1000 iterations is our choice.
_base_ = '../../../_base_/schedules/adamw.py'

max_epochs = 36
warm_up = 1000
train_cfg = dict(type='mmswinv2.EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=warm_up),
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[27, 33], gamma=0.1)
]
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr_mult=0.1, layer_decay_rate=1.0), optimizer=dict(lr=4e-4))
auto_scale_lr = dict(enable=False, base_batch_size=64)
