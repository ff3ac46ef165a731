# SwinV2-G on ImageNet-1K at 640 px: AdamW 2.1e-5, batch 576, 10 epochs, warm-up of 2, weight decay 0.1, gradients
# clipped at 100, drop path 0.5, RandAugment and erasing (arXiv:2111.09883, appendix A2.2; 90.17 top-1, 84.00 on
# ImageNet-V2). The window at 640 px is not stated: that of UperNet. Its weights were never released: --cfg-options
# load_from=FILE
_base_ = [
    '../_base_/backbones/swinv2_g.py', './_base_/models/swinv2_classifier.py', './_base_/datasets/imagenet_640.py',
    './_base_/schedules/adamw_30e_fine-tune.py', './_base_/default_runtime.py',
    '../_base_/sharding/fsdp.py'
]

model = dict(
    backbone=dict(
        _base_.swinv2, window_size=[40, 40, 40, 20], drop_path_rate=0.5, with_cp=True, autocast_dtype='bfloat16',
        init_cfg=None),
    head=dict(in_channels=_base_.channels[3]),
    train_cfg=None)
train_dataloader = dict(batch_size=2)  # on 8 GPUs, 36 passes: 576
max_epochs = 10
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=0., by_epoch=True, begin=2, end=max_epochs, convert_to_iter_based=True)
]
optim_wrapper = dict(
    accumulative_counts=36, optimizer=dict(lr=2.1e-5, weight_decay=0.1), clip_grad=dict(max_norm=100.))
auto_scale_lr = dict(base_batch_size=576)
default_hooks = dict(convert_checkpoint=dict(required=True))
