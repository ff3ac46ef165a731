# SwinV2-B on ImageNet-1K at 256 px, window 16, fine-tuned from ImageNet-22K at 192 px, window 12, with those rows of
# its head that are for the 1,000 classes: --cfg-options default_hooks.convert_checkpoint.head_rows=map22kto1k.txt,
# the file data/map22kto1k.txt of microsoft/Swin-Transformer.
_base_ = [
    '../_base_/backbones/swinv2_b.py', './_base_/models/swinv2_classifier.py', './_base_/datasets/imagenet_256.py',
    './_base_/schedules/adamw_30e_fine-tune.py', './_base_/default_runtime.py'
]

model = dict(
    backbone=dict(_base_.swinv2, window_size=[16, 16, 16, 8], init_cfg=None),
    head=dict(in_channels=_base_.channels[3]))
train_dataloader = dict(batch_size=64)  # on 8 GPUs, 2 passes: 1024
optim_wrapper = dict(accumulative_counts=2)
load_from = _base_.released
default_hooks = dict(convert_checkpoint=dict(required=True))
