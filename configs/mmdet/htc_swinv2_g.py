# HTC++ with SwinV2-G (3.0B parameters) on COCO at 1536 px, window 32. To train: _fsdp, or
# _zero1 as in the paper, and name its weights: --cfg-options model.backbone.init_cfg.checkpoint=FILE
_base_ = [
    '../_base_/backbones/swinv2_g.py', './_base_/models/htc-pp_swinv2_fpn.py',
    './_base_/datasets/coco_instance_lsj-1536.py', './_base_/schedules/adamw_45k.py', './_base_/tta_ms-600-1600.py',
    './_base_/default_runtime.py'
]

model = dict(
    backbone=dict(
        window_size=_base_.window_32,
        with_cp=True,
        drop_path_rate=0.4,  # its rate on ADE20K: our choice
        **_base_.swinv2),
    neck=[
        dict(type='mmswinv2.GlobalAttention', dim=_base_.channels[-1]),
        dict(type='FPN', in_channels=_base_.channels, out_channels=_base_.fpn_channels, num_outs=5)
    ])
# 8 GPUs x 1 image x 12 passes = 96; iterations are steps of the optimizer. On 96 GPUs: --cfg-options
# optim_wrapper.accumulative_counts=1
optim_wrapper = dict(accumulative_counts=12)
# InstaBoost is not mentioned for SwinV2-G (arXiv:2111.09883, appendix A2)
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=_base_.train_pipeline_without_instaboost))
default_hooks = _base_.hooks_by_iteration
log_processor = dict(by_epoch=False)
