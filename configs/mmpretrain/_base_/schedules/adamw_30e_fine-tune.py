# Fine-tuning: AdamW 4e-5, batch 1024, 30 epochs, warm-up of 5, cosine to 4e-7, weight decay 1e-8, gradients clipped
# at 5 (arXiv:2111.09883, appendix A1.2; the release's configs/swinv2/*_22kto1k_finetune.yaml).
_base_ = '../../../_base_/schedules/adamw.py'

max_epochs = 30
warm_up = 5
train_cfg = dict(type='mmswinv2.EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=5)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=warm_up, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=4e-7,
        by_epoch=True,
        begin=warm_up,
        end=max_epochs,
        convert_to_iter_based=True)
]
optim_wrapper = dict(optimizer=dict(lr=4e-5, weight_decay=1e-8), clip_grad=dict(max_norm=5.0))
auto_scale_lr = dict(enable=False, base_batch_size=1024)
