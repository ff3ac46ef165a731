# HTC++ with SwinV2-G, without masks, on Objects365 v2: the stage before COCO (arXiv:2111.09883, appendix A2): window
# 32, AdamW 1.2e-3, weight decay 0.05, batch 96, 67,500 iterations. To train, name its weights: --cfg-options
# model.backbone.init_cfg.checkpoint=FILE
_base_ = [
    '../_base_/backbones/swinv2_g.py', './_base_/models/htc-pp_swinv2_fpn.py',
    './_base_/datasets/objects365_detection.py', './_base_/schedules/adamw_45k.py', './_base_/default_runtime.py',
    '../_base_/sharding/fsdp.py'
]

model = dict(
    backbone=dict(
        window_size=_base_.window_32,  # as on COCO afterwards; the last map has a short side of 25 to 32 tokens here
        with_cp=True,
        autocast_dtype='bfloat16',
        drop_path_rate=0.4,  # its rate on ADE20K: our choice
        **_base_.swinv2),
    neck=dict(in_channels=_base_.channels),
    roi_head=dict(
        num_classes=365,
        interleaved=False,  # without masks it is Cascade R-CNN
        mask_info_flow=False,
        mask_roi_extractor=None,
        mask_head=None))
# steps at the fractions of 3x: our choice, as in adamw_45k
max_iters = 67500
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=max_iters, milestones=[max_iters * 27 // 36, max_iters * 33 // 36])
]
# one validation, at the end: 80,000 images take the main process 11 minutes and 37 GB, which 27 times is a night
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
# 8 GPUs x 1 image x 12 passes = 96
optim_wrapper = dict(optimizer=dict(lr=1.2e-3), accumulative_counts=12)
default_hooks = _base_.hooks_by_iteration
log_processor = dict(by_epoch=False)
