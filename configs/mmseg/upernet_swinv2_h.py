# UperNet with SwinV2-H on ADE20K at 640 px, window 40, the last stage at half of it, as in pre-training;
# the recipe is that of SwinV2-L: our choice. To train, name its weights: --cfg-options
# model.backbone.init_cfg.checkpoint=FILE
_base_ = [
    '../_base_/backbones/swinv2_h.py', './_base_/models/upernet_swinv2.py', './_base_/datasets/ade20k_640.py',
    './_base_/schedules/adamw_40k.py', './_base_/default_runtime.py',
    '../_base_/sharding/fsdp.py'
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(window_size=_base_.window_40, with_cp=True, autocast_dtype='bfloat16', **_base_.swinv2),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]))
# Our choice for weights of SimMIM, which saw no labels: layer-wise decay, with which the authors fine-tune them (AiT:
# 0.85), and clipping as there. fused: no copy of the parameters at the step
optim_wrapper = dict(
    paramwise_cfg=dict(layer_decay_rate=0.85), optimizer=dict(fused=True), clip_grad=dict(max_norm=1.0))
