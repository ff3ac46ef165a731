# AdamW 1e-3, batch 1024, 300 epochs, warm-up of 20, cosine to 1e-5, gradients clipped at 5 (the release's config.py
# and configs/swinv2: its rates are for 512 images).
_base_ = '../../../_base_/schedules/adamw.py'

max_epochs = 300
warm_up = 20
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
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=5.0))
auto_scale_lr = dict(enable=False, base_batch_size=1024)
