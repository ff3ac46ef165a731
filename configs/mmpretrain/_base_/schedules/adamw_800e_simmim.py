# SimMIM: AdamW 4e-4, batch 2048, 800 epochs, warm-up of 10 from 2e-6, a step of 0.1 at 700, weight decay 0.05,
# gradients clipped at 5 (the release's configs/simmim: its rates are for 512 images). The release means cpb_mlp and
# logit_scale to have no decay, but looks for their names under another prefix, so that in pre-training they have: so
# it is here.
_base_ = '../../../_base_/schedules/adamw.py'

max_epochs = 800
warm_up = 10
train_cfg = dict(type='mmswinv2.EpochBasedTrainLoop', max_epochs=max_epochs)
val_cfg = None
test_cfg = None
param_scheduler = [
    dict(type='LinearLR', start_factor=5e-3, by_epoch=True, begin=0, end=warm_up, convert_to_iter_based=True),
    dict(type='MultiStepLR', milestones=[700], gamma=0.1, by_epoch=True, begin=0, end=max_epochs)
]
optim_wrapper = dict(
    optimizer=dict(lr=4e-4),
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(no_decay=['mask_token', 'relative_position_bias_table']))
auto_scale_lr = dict(enable=False, base_batch_size=2048)
