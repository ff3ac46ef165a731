# HTC++ with SwinV2-H (C = 352) on COCO at 1536 px, window 32. The paper has no such model: batch, rate and length are
# those of B and L, the rest is our choice.
_base_ = [
    './_base_/models/htc-pp_swinv2_fpn.py', './_base_/datasets/coco_instance_lsj-1536.py',
    './_base_/schedules/adamw_3x.py', './_base_/tta_ms-600-1600.py', './_base_/default_runtime.py'
]

# The public SimMIM weights of SwinV2-H (192 px, window 12) are read as they are: name the file with
# --cfg-options model.backbone.init_cfg.checkpoint=FILE
model = dict(
    backbone=dict(
        arch='huge',
        # the last stage at half the window, as in pre-training: its map is 1536 / 32 = 48 = 3 x 16 tokens
        window_size=[32, 32, 32, 16],
        pretrained_window_sizes=[12, 12, 12, 6],
        drop_path_rate=0.3,  # between L's 0.2 and G's 0.4
        with_cp=True,
        init_cfg=dict(type='Pretrained', checkpoint=None)),
    neck=[
        dict(type='mmswinv2.GlobalAttention', dim=2816),
        dict(type='FPN', in_channels=[352, 704, 1408, 2816], out_channels=256, num_outs=5)
    ])
# Weights of SimMIM saw no labels: layer-wise decay, with which the authors fine-tune them (AiT on COCO: 0.85), instead
# of the factor for the backbone of B and L; gradients clipped as there. fused: no copy of the parameters at the step
optim_wrapper = dict(
    paramwise_cfg=dict(backbone_lr_mult=1.0, layer_decay_rate=0.85),
    optimizer=dict(fused=True),
    clip_grad=dict(max_norm=1.0))
