# HTC++ with SwinV2-H on COCO at 1536 px, window 32. The paper has no such model: batch, rate and length are those of B
# and L, the rest is our choice. To train, name its weights: --cfg-options model.backbone.init_cfg.checkpoint=FILE
_base_ = [
    '../_base_/backbones/swinv2_h.py', './_base_/models/htc-pp_swinv2_fpn.py',
    './_base_/datasets/coco_instance_lsj-1536.py', './_base_/schedules/adamw_3x.py', './_base_/tta_ms-600-1600.py',
    './_base_/default_runtime.py', '../_base_/sharding/fsdp.py'
]

model = dict(
    backbone=dict(
        window_size=_base_.window_32,
        with_cp=True,
        autocast_dtype='bfloat16',
        drop_path_rate=0.3,  # between L's 0.2 and G's 0.4
        **_base_.swinv2),
    neck=dict(in_channels=_base_.channels))
# Weights of SimMIM saw no labels: layer-wise decay, with which the authors fine-tune them (AiT on COCO: 0.85), instead
# of the factor for the backbone of B and L; gradients clipped as there. fused: no copy of the parameters at the step
optim_wrapper = dict(
    paramwise_cfg=dict(backbone_lr_mult=1.0, layer_decay_rate=0.85),
    optimizer=dict(fused=True),
    clip_grad=dict(max_norm=1.0))
