# Fine-tuning after SimMIM: AdamW 5e-3, batch 2048, 100 epochs, warm-up of 20, cosine to 1e-6, weight decay 0.05,
# gradients clipped at 5, layer-wise decay 0.75 with the release's numbers of layers (configs/simmim: rates are for
# 512 images).
_base_ = '../../../_base_/schedules/adamw.py'

max_epochs = 100
warm_up = 20
train_cfg = dict(type='mmswinv2.EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=10)
param_scheduler = [
    dict(type='LinearLR', start_factor=2e-4, by_epoch=True, begin=0, end=warm_up, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-6,
        by_epoch=True,
        begin=warm_up,
        end=max_epochs,
        convert_to_iter_based=True)
]
optim_wrapper = dict(
    optimizer=dict(lr=5e-3),
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(layer_decay_rate=0.75, merging_layers=False))
auto_scale_lr = dict(enable=False, base_batch_size=2048)
