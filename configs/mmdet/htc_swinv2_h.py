# HTC++ with SwinV2-H (C = 352) on COCO at 1536 px, window 32.
_base_ = [
    './_base_/models/htc-pp_swinv2_fpn.py', './_base_/datasets/coco_instance_lsj-1536.py',
    './_base_/schedules/adamw_3x.py', './_base_/tta_ms-600-1600.py', './_base_/default_runtime.py'
]

# The public SimMIM weights of SwinV2-H (192 px, window 12) are read as they are: name the file with
# --cfg-options "model.backbone.init_cfg=dict(type='Pretrained',checkpoint='FILE')"
model = dict(
    backbone=dict(
        arch='huge',
        # the last stage at half the window, as in pre-training: its map is 1536 / 32 = 48 = 3 x 16 tokens
        window_size=[32, 32, 32, 16],
        pretrained_window_sizes=[12, 12, 12, 6],
        with_cp=True,
        init_cfg=None),
    neck=[
        dict(type='mmswinv2.GlobalAttention', dim=2816),
        dict(type='FPN', in_channels=[352, 704, 1408, 2816], out_channels=256, num_outs=5)
    ])
