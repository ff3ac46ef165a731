# HTC++ with SwinV2-G (3.0B parameters) on COCO at 1536 px, window 32.
_base_ = [
    './_base_/models/htc-pp_swinv2_fpn.py', './_base_/datasets/coco_instance_lsj-1536.py',
    './_base_/schedules/adamw_45k.py', './_base_/tta_ms-600-1600.py', './_base_/default_runtime.py'
]

# InstaBoost is not mentioned for SwinV2-G (arXiv:2111.09883, appendix A2)
train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline_without_instaboost))

# The weights of SwinV2-G were never released: name your own on the command line with
# --cfg-options "model.backbone.init_cfg=dict(type='Pretrained',checkpoint='FILE')"
model = dict(
    backbone=dict(
        arch='g',
        # the last stage at half the window, as in pre-training: its map is 1536 / 32 = 48 = 3 x 16 tokens
        window_size=[32, 32, 32, 16],
        pretrained_window_sizes=[12, 12, 12, 6],
        with_cp=True,
        init_cfg=None),
    neck=[
        dict(type='mmswinv2.GlobalAttention', dim=4096),
        dict(type='FPN', in_channels=[512, 1024, 2048, 4096], out_channels=256, num_outs=5)
    ])
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2500))
log_processor = dict(by_epoch=False)
