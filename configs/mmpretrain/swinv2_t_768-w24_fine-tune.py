# SwinV2-T at 768 px, window 24, fine-tuned from 256 px, window 8: a column of Table 1 (arXiv:2111.09883).
# The other position biases: --cfg-options model.backbone.position_bias=linear_cpb, or parameterized, with
# load_from=FILE, since no weights were released for them.
_base_ = [
    '../_base_/backbones/swinv2_t_w8.py', './_base_/models/swinv2_classifier.py', './_base_/datasets/imagenet_768.py',
    './_base_/schedules/adamw_30e_fine-tune.py', './_base_/default_runtime.py'
]

model = dict(
    backbone=dict(_base_.swinv2, window_size=[24] * 4, init_cfg=None),
    head=dict(in_channels=_base_.channels[3]))
train_dataloader = dict(batch_size=16)  # on 8 GPUs, 8 passes: 1024
optim_wrapper = dict(accumulative_counts=8)
load_from = _base_.released
default_hooks = dict(convert_checkpoint=dict(required=True))
