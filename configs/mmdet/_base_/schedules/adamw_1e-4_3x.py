# AdamW 1e-4, batch 16, 3x (arXiv:2111.09883, appendix A1.2). Steps at 27 and 33 are those of Swin V1
# (arXiv:2103.14030, appendix A2.2); a warm-up of 500 iterations is mmdet's.
_base_ = '../../../_base_/schedules/adamw.py'

max_epochs = 36
warm_up = 500
train_cfg = dict(type='mmswinv2.EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=warm_up),
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[27, 33], gamma=0.1)
]
optim_wrapper = dict(paramwise_cfg=dict(backbone_lr_mult=1.0, layer_decay_rate=1.0), optimizer=dict(lr=1e-4))
auto_scale_lr = dict(enable=False, base_batch_size=16)
