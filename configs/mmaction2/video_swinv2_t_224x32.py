# Video-SwinV2-T on Kinetics-400 at 224 px, from image weights (IN-1K, 256 px, window 8): the recipe of Video Swin
# Transformer's T (V1) with V2's backbone, which is our choice; the paper has no such model.
_base_ = [
    '../_base_/backbones/swinv2_t_w8.py', './_base_/models/video_swinv2.py', './_base_/datasets/kinetics400_224x32.py',
    './_base_/schedules/adamw_30e.py', './_base_/default_runtime.py'
]

model = dict(
    backbone=dict(
        _base_.swinv2,
        window_size=[[8, 7, 7]] * 4,
        pretrained_window_sizes=[[8, 8, 8]] * 4,
        drop_path_rate=0.1,
        with_cp=False,
        autocast_dtype='bfloat16'),
    cls_head=dict(in_channels=_base_.channels[3]))
