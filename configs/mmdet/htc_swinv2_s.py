# HTC++ with SwinV2-S (C = 96) on COCO at 1536 px, window 32; the recipe is that of B and L: our choice.
_base_ = [
    './_base_/models/htc-pp_swinv2_fpn.py', './_base_/datasets/coco_instance_lsj-1536.py',
    './_base_/schedules/adamw_3x.py', './_base_/tta_ms-600-1600.py', './_base_/default_runtime.py'
]

# released weights, IN-1K at 256 px; their windows, the last stage's clamped to its map, normalise the log-CPB
pretrained = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/' \
    'swinv2_small_patch4_window16_256.pth'
model = dict(
    backbone=dict(
        arch='small',
        # the last stage at half the window, as in pre-training: its map is 1536 / 32 = 48 = 3 x 16 tokens
        window_size=[32, 32, 32, 16],
        pretrained_window_sizes=[16, 16, 16, 8],
        with_cp=True,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained)),
    neck=[
        dict(type='mmswinv2.GlobalAttention', dim=768),
        dict(type='FPN', in_channels=[96, 192, 384, 768], out_channels=256, num_outs=5)
    ])
