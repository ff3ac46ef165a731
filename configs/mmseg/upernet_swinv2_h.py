# UperNet with SwinV2-H on ADE20K at 640 px, window 40, the last stage at half of it, as in pre-training;
# the recipe is that of SwinV2-L: our choice.
_base_ = [
    './_base_/models/upernet_swinv2.py', './_base_/datasets/ade20k_640.py', './_base_/schedules/adamw_40k.py',
    './_base_/default_runtime.py'
]

# The public SimMIM weights of SwinV2-H (192 px, window 12) are read as they are: name the file with
# --cfg-options model.backbone.init_cfg.checkpoint=FILE
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(
        arch='huge',
        window_size=[40, 40, 40, 20],
        pretrained_window_sizes=[12, 12, 12, 6],
        with_cp=True,
        init_cfg=dict(type='Pretrained', checkpoint=None)),
    decode_head=dict(in_channels=[352, 704, 1408, 2816]),
    auxiliary_head=dict(in_channels=1408))
# Our choice for weights of SimMIM, which saw no labels: layer-wise decay, with which the authors fine-tune them (AiT:
# 0.85), and clipping as there. fused: no copy of the parameters at the step
optim_wrapper = dict(
    paramwise_cfg=dict(layer_decay_rate=0.85), optimizer=dict(fused=True), clip_grad=dict(max_norm=1.0))
