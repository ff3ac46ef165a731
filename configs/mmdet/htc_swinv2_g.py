# HTC++ with SwinV2-G (3.0B parameters) on COCO at 1536 px, window 32. To train: _zero1 (as in the
# paper), _fsdp or _deepspeed.
_base_ = [
    './_base_/models/htc-pp_swinv2_fpn.py', './_base_/datasets/coco_instance_lsj-1536.py',
    './_base_/schedules/adamw_45k.py', './_base_/tta_ms-600-1600.py', './_base_/default_runtime.py'
]

# 8 GPUs x 1 image x 12 passes = 96; iterations are steps of the optimizer. On 96 GPUs: --cfg-options
# optim_wrapper.accumulative_counts=1
optim_wrapper = dict(accumulative_counts=12)
# InstaBoost is not mentioned for SwinV2-G (arXiv:2111.09883, appendix A2)
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=_base_.train_pipeline_without_instaboost))

# The weights of SwinV2-G were never released: name your own on the command line with
# --cfg-options model.backbone.init_cfg.checkpoint=FILE
model = dict(
    backbone=dict(
        arch='g',
        # the last stage at half the window, as in pre-training: its map is 1536 / 32 = 48 = 3 x 16 tokens
        window_size=[32, 32, 32, 16],
        pretrained_window_sizes=[12, 12, 12, 6],
        drop_path_rate=0.4,  # its rate on ADE20K: our choice
        with_cp=True,
        init_cfg=dict(type='Pretrained', checkpoint=None)),
    neck=[
        dict(type='mmswinv2.GlobalAttention', dim=4096),
        dict(type='FPN', in_channels=[512, 1024, 2048, 4096], out_channels=256, num_outs=5)
    ])
# a checkpoint every 250 iterations: 3,000 forward passes of a node of 8 GPUs
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=250), logger=dict(log_metric_by_epoch=False))
log_processor = dict(by_epoch=False)
