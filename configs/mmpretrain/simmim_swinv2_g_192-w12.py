# SimMIM of SwinV2-G at 192 px, window 12, from random weights: AdamW 1.4e-3, batch 9216, 20 epochs of 70M images,
# warm-up of 30,000 steps, cosine, weight decay 0.1, gradients clipped at 100 (arXiv:2111.09883, appendix A2.2). The
# data, ImageNet-22K-ext, are not public: name yours with --cfg-options train_dataloader.dataset.data_root=FOLDER;
# masks and the norm target are not stated: those of B.
_base_ = [
    '../_base_/backbones/swinv2_g.py', './_base_/models/simmim_swinv2.py', './_base_/datasets/imagenet_192_simmim.py',
    './_base_/schedules/adamw_800e_simmim.py', './_base_/default_runtime.py',
    '../_base_/sharding/fsdp.py'
]

model = dict(
    backbone=dict(
        _base_.swinv2, window_size=[12, 12, 12, 6], with_cp=True, autocast_dtype='bfloat16', init_cfg=None),
    neck=dict(in_channels=_base_.channels[3]))
train_dataloader = dict(
    batch_size=32,  # on 8 GPUs, 36 passes: 9216
    dataset=dict(_delete_=True, type='CustomDataset', data_root='data/imagenet22k-ext', with_label=False,
                 pipeline=_base_.train_pipeline))
max_epochs = 20
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=30000),
    dict(type='CosineAnnealingLR', eta_min=0., by_epoch=True, begin=0, end=max_epochs, convert_to_iter_based=True)
]
optim_wrapper = dict(
    accumulative_counts=36, optimizer=dict(lr=1.4e-3, weight_decay=0.1), clip_grad=dict(max_norm=100.))
auto_scale_lr = dict(base_batch_size=9216)
