# HTC++ with SwinV2-G (3.0B parameters) on COCO at 1536 px, window 32: the backbone and its global attention in
# bfloat16 (float32: --cfg-options model.backbone.autocast_dtype=None), weights, gradients and states of the optimizer
# divided among the GPUs. mim train mmdet ... --launcher pytorch --gpus 8
# To train, name its weights: --cfg-options model.backbone.init_cfg.checkpoint=FILE
_base_ = [
    '../_base_/backbones/swinv2_g.py', './_base_/models/htc-pp_swinv2_fpn.py',
    './_base_/datasets/coco_instance_lsj-1536.py', './_base_/schedules/adamw_45k.py', './_base_/tta_ms-600-1600.py',
    './_base_/default_runtime.py', '../_base_/sharding/fsdp.py'
]

model = dict(
    backbone=dict(
        window_size=_base_.window_32,
        with_cp=True,
        autocast_dtype='bfloat16',
        drop_path_rate=0.4,  # its rate on ADE20K: our choice
        **_base_.swinv2),
    neck=dict(in_channels=_base_.channels))
# 8 GPUs x 1 image x 12 passes = 96; iterations are steps of the optimizer. On 96 GPUs: --cfg-options
# optim_wrapper.accumulative_counts=1
optim_wrapper = dict(accumulative_counts=12)
# InstaBoost is not mentioned for SwinV2-G (arXiv:2111.09883, appendix A2)
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=_base_.train_pipeline_without_instaboost))
default_hooks = _base_.hooks_by_iteration
log_processor = dict(by_epoch=False)
