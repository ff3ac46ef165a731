# ImageNet-22K: AdamW 1e-3, batch 4096, 90 epochs, warm-up of 5, weight decay 0.1, gradients clipped at 5
# (configs/swinv2/*_22k.yaml of the release); cosine to 1e-5, our choice.
_base_ = '../../../_base_/schedules/adamw.py'

max_epochs = 90
warm_up = 5
train_cfg = dict(type='mmswinv2.EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=10)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=warm_up, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        begin=warm_up,
        end=max_epochs,
        convert_to_iter_based=True)
]
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.1), clip_grad=dict(max_norm=5.0))
auto_scale_lr = dict(enable=False, base_batch_size=4096)
