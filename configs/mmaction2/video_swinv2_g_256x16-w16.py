# SwinV2-G on Kinetics-400, stage 1: 256 x 256 px and 8 tokens in time, windows of 16 x 16 x 8, AdamW 3.6e-4, batch 80,
# 20 epochs, warm-up of 2.5, cosine, weight decay 0.1 (arXiv:2111.09883, appendix A2.2). The patch of 2 frames, the
# interval between frames, drop path and the last stage's window are our choice (README.md). Image weights were never
# released: --cfg-options model.backbone.init_cfg.checkpoint=FILE
_base_ = [
    '../_base_/backbones/swinv2_g.py', './_base_/models/video_swinv2.py', './_base_/datasets/kinetics400_256x16.py',
    './_base_/schedules/adamw_30e.py', './_base_/default_runtime.py',
    '../_base_/sharding/fsdp.py'
]

model = dict(
    backbone=dict(
        _base_.swinv2,
        window_size=[[8, 16, 16]] * 3 + [[8, 8, 8]],
        pretrained_window_sizes=[[8, 12, 12]] * 3 + [[8, 6, 6]],
        drop_path_rate=0.4,
        with_cp=True,
        autocast_dtype='bfloat16'),
    cls_head=dict(in_channels=_base_.channels[3]))
train_dataloader = dict(batch_size=1)  # on 8 GPUs, 10 passes: 80
val_dataloader = dict(batch_size=1)
max_epochs = 20
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=2.5, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=0.,
        by_epoch=True,
        begin=2.5,
        end=max_epochs,
        convert_to_iter_based=True)
]
# fused: no copy of the parameters at the step
optim_wrapper = dict(
    accumulative_counts=10,
    optimizer=dict(lr=3.6e-4, weight_decay=0.1, fused=True),
    paramwise_cfg=dict(backbone_lr_mult=1.))
auto_scale_lr = dict(base_batch_size=80)
