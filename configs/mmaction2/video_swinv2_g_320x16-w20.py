# SwinV2-G on Kinetics-400, stage 2: 320 x 320 px and 8 tokens in time, windows of 20 x 20 x 8, AdamW 5e-5, batch 64, 5
# epochs, warm-up of 1, cosine, weight decay 0.1 (arXiv:2111.09883, appendix A2.2), from a checkpoint of stage 1:
# --cfg-options load_from=FILE. Tested with 1 x 1 views (Table 5: 83.2). What is our choice: see stage 1.
_base_ = [
    '../_base_/backbones/swinv2_g.py', './_base_/models/video_swinv2.py', './_base_/datasets/kinetics400_320x16.py',
    './_base_/schedules/adamw_30e.py', './_base_/default_runtime.py',
    '../_base_/sharding/fsdp.py'
]

model = dict(
    backbone=dict(
        _base_.swinv2,
        window_size=[[8, 20, 20]] * 3 + [[8, 10, 10]],
        pretrained_window_sizes=[[8, 12, 12]] * 3 + [[8, 6, 6]],
        drop_path_rate=0.4,
        with_cp=True,
        autocast_dtype='bfloat16',
        init_cfg=None),
    cls_head=dict(in_channels=_base_.channels[3]))
train_dataloader = dict(batch_size=1)  # on 8 GPUs, 8 passes: 64
val_dataloader = dict(batch_size=1)
max_epochs = 5
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=0., by_epoch=True, begin=1, end=max_epochs, convert_to_iter_based=True)
]
# fused: no copy of the parameters at the step
optim_wrapper = dict(
    accumulative_counts=8,
    optimizer=dict(lr=5e-5, weight_decay=0.1, fused=True),
    paramwise_cfg=dict(backbone_lr_mult=1.))
default_hooks = dict(convert_checkpoint=dict(required=True))
weights_from = [
    ('configs/mmaction2/video_swinv2_g_256x16-w16.py', 'work_dirs/video_swinv2_g_256x16-w16/epoch_20.pth')
]
