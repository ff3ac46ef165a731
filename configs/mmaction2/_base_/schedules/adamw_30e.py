# Fine-tuning on Kinetics-400: AdamW 1e-3, batch 64, a tenth of the rate in the backbone, 30 epochs, warm-up of 2.5,
# cosine to 0, weight decay 0.02 (Video Swin Transformer, arXiv:2106.13230; mmaction2, configs/recognition/swin).
_base_ = '../../../_base_/schedules/adamw.py'

max_epochs = 30
warm_up = 2.5
train_cfg = dict(type='mmswinv2.EpochBasedTrainLoop', max_epochs=max_epochs, val_begin=1, val_interval=3)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=warm_up, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        eta_min=0.,
        by_epoch=True,
        begin=0,
        end=max_epochs,
        convert_to_iter_based=True)
]
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.02), paramwise_cfg=dict(backbone_lr_mult=0.1))
auto_scale_lr = dict(enable=False, base_batch_size=64)
