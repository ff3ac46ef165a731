# A small SwinV2 on the clips of demos/make_mini_clips.py, from weights trained on stills: what `make demo-video` runs.
# Patches of 4 frames: 2 tokens in time. --cfg-options model.backbone.init_cfg.checkpoint=FILE, weights on images of the
# same sizes (mmpretrain/swinv2_stills_mini.py); model.backbone.init_cfg=None for random ones.
_base_ = [
    '../_base_/backbones/swinv2_mini_32px_narrow.py', './_base_/models/video_swinv2.py',
    './_base_/datasets/mini_clips.py', './_base_/schedules/adamw_mini.py', './_base_/default_runtime.py'
]

model = dict(
    backbone=dict(
        _base_.swinv2,
        temporal_patch_size=4,
        window_size=[[2, 4, 4], [2, 4, 4], [2, 2, 2]],
        pretrained_window_sizes=[[2, 4, 4], [2, 4, 4], [2, 2, 2]],  # stay when the window is overridden at test
        init_cfg=dict(type='Pretrained', checkpoint=None)),
    cls_head=dict(in_channels=_base_.channels[2], num_classes=16, dropout_ratio=0.))
default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(by_epoch=False, interval=100, max_keep_ckpts=1, save_best=None))
