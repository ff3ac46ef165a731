# HTC++ with SwinV2-G, without masks, on Objects365 v2: the stage before COCO (arXiv:2111.09883, appendix A2): window
# 32, AdamW 1.2e-3, weight decay 0.05, batch 96, 67,500 iterations. To train: _zero1, as in the paper.
_base_ = [
    './_base_/models/htc-pp_swinv2_fpn.py', './_base_/datasets/objects365_detection.py',
    './_base_/schedules/adamw_45k.py', './_base_/default_runtime.py'
]

# The weights of SwinV2-G were never released: name your own on the command line with
# --cfg-options model.backbone.init_cfg.checkpoint=FILE
model = dict(
    backbone=dict(
        arch='g',
        # the last stage at half the window, as on COCO afterwards; its map has a short side of 25 to 32 tokens here
        window_size=[32, 32, 32, 16],
        pretrained_window_sizes=[12, 12, 12, 6],
        drop_path_rate=0.4,  # its rate on ADE20K: our choice
        with_cp=True,
        init_cfg=dict(type='Pretrained', checkpoint=None)),
    neck=[
        dict(type='mmswinv2.GlobalAttention', dim=4096),
        dict(type='FPN', in_channels=[512, 1024, 2048, 4096], out_channels=256, num_outs=5)
    ],
    roi_head=dict(
        interleaved=False,  # without masks it is Cascade R-CNN
        mask_info_flow=False,
        mask_roi_extractor=None,
        mask_head=None,
        bbox_head=[
            dict(
                type='ConvFCBBoxHead',
                num_shared_convs=4,
                num_shared_fcs=1,
                in_channels=256,
                conv_out_channels=256,
                fc_out_channels=1024,
                roi_feat_size=7,
                num_classes=365,
                bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.] * 4, target_stds=stds),
                reg_class_agnostic=True,
                reg_decoded_bbox=True,
                norm_cfg=dict(type='SyncBN', requires_grad=True),
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type='GIoULoss', loss_weight=10.0))
            for stds in ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])
        ]))
# steps at the fractions of 3x: our choice, as in adamw_45k
# one validation, at the end: 80,000 images take the main process 11 minutes and 37 GB, which 27 times is a night
train_cfg = dict(max_iters=67500, val_interval=67500)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=67500, by_epoch=False, milestones=[50625, 61875], gamma=0.1)
]
# 8 GPUs x 1 image x 12 passes = 96
optim_wrapper = dict(optimizer=dict(lr=1.2e-3), accumulative_counts=12)
# a checkpoint every 250 iterations: 3,000 forward passes of a node of 8 GPUs
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=250), logger=dict(log_metric_by_epoch=False))
log_processor = dict(by_epoch=False)
