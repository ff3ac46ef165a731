# SwinV2-T at 640 px, window 20, fine-tuned from 256 px, window 8, with log_cpb: Table 1 (84.0 top-1 in the paper).
# It begins with the released weights, or with --cfg-options load_from=FILE
_base_ = [
    '../_base_/backbones/swinv2_t_w8.py', './_base_/models/swinv2_classifier.py', './_base_/datasets/imagenet_640.py',
    './_base_/schedules/adamw_30e_fine-tune.py', './_base_/default_runtime.py'
]

model = dict(
    backbone=dict(_base_.swinv2, window_size=[20] * 4, init_cfg=None),
    head=dict(in_channels=_base_.channels[3]))
train_dataloader = dict(batch_size=16)  # on 8 GPUs, 8 passes: 1024
optim_wrapper = dict(accumulative_counts=8)
load_from = _base_.pretrained
default_hooks = dict(convert_checkpoint=dict(required=True))
