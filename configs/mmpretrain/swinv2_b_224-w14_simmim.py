# SwinV2-B on ImageNet-1K at 224 px, window 14, fine-tuned after SimMIM at 192 px, window 12 (the release's
# configs/simmim/simmim_finetune__swinv2_base__img224_window14__800ep.yaml). The pre-trained weights are named with
# --cfg-options model.backbone.init_cfg.checkpoint=FILE: a checkpoint of simmim_swinv2_b_192-w12.py or the release's.
_base_ = [
    '../_base_/backbones/swinv2_b.py', './_base_/models/swinv2_classifier.py', './_base_/datasets/imagenet_224.py',
    './_base_/schedules/adamw_100e_simmim-fine-tune.py', './_base_/default_runtime.py'
]

model = dict(
    backbone=dict(
        _base_.swinv2,
        window_size=[14, 14, 14, 7],
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=None)),
    head=dict(in_channels=_base_.channels[3]))
train_dataloader = dict(batch_size=64)  # on 8 GPUs, 4 passes: 2048
optim_wrapper = dict(accumulative_counts=4)
