# SwinV2-G on ImageNet-22K-ext at 192 px, window 12, with labels, after SimMIM on the same images: 30 epochs, warm-up of
# 20,000 steps, layer decay 0.87, drop path 0.3, RandAugment and erasing (arXiv:2111.09883, appendix A2.2, stage 2).
# Batch, rate, weight decay and clipping are those of stage 1, and 21,841 classes, which is our choice. The data are not
# public: --cfg-options train_dataloader.dataset.data_root=FOLDER train_dataloader.dataset.ann_file=LIST, the same for
# val_dataloader, and model.backbone.init_cfg.checkpoint=FILE, a checkpoint of simmim_swinv2_g_192-w12.py.
_base_ = [
    '../_base_/backbones/swinv2_g.py', './_base_/models/swinv2_classifier.py', './_base_/datasets/imagenet21k_192.py',
    './_base_/schedules/adamw_90e_22k.py', './_base_/default_runtime.py',
    '../_base_/sharding/fsdp.py'
]

num_classes = 21841
model = dict(
    data_preprocessor=dict(num_classes=num_classes),
    backbone=dict(
        _base_.swinv2, window_size=[12, 12, 12, 6], drop_path_rate=0.3, with_cp=True, autocast_dtype='bfloat16'),
    head=dict(num_classes=num_classes, in_channels=_base_.channels[3]),
    train_cfg=None)
train_dataloader = dict(batch_size=32)  # on 8 GPUs, 36 passes: 9216
max_epochs = 30
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=20000),
    dict(type='CosineAnnealingLR', eta_min=0., by_epoch=True, begin=0, end=max_epochs, convert_to_iter_based=True)
]
optim_wrapper = dict(
    accumulative_counts=36,
    optimizer=dict(lr=1.4e-3, weight_decay=0.1),
    paramwise_cfg=dict(layer_decay_rate=0.87, merging_layers=False),
    clip_grad=dict(max_norm=100.))
auto_scale_lr = dict(base_batch_size=9216)
weights_from = _base_.weights_from[:1]
