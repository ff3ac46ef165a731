# HTC++ with SwinV2-L (C = 192) on COCO at 1536 px, window 32.
_base_ = [
    './_base_/models/htc-pp_swinv2_fpn.py', './_base_/datasets/coco_instance_lsj-1536.py',
    './_base_/schedules/adamw_3x.py', './_base_/tta_ms-600-1600.py', './_base_/default_runtime.py'
]

# released weights, IN-22K at 192 px; their windows, the last stage's clamped to its map, normalise the log-CPB
pretrained = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/' \
    'swinv2_large_patch4_window12_192_22k.pth'
model = dict(
    backbone=dict(
        arch='large',
        # the last stage at half the window, as in pre-training: its map is 1536 / 32 = 48 = 3 x 16 tokens
        window_size=[32, 32, 32, 16],
        pretrained_window_sizes=[12, 12, 12, 6],
        with_cp=True,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained)),
    neck=[
        dict(type='mmswinv2.GlobalAttention', dim=1536),
        dict(type='FPN', in_channels=[192, 384, 768, 1536], out_channels=256, num_outs=5)
    ])
