# HTC++ with a small SwinV2 on the small data set of demos/make_mini_coco.py: what `make demo` runs. The parts are those
# of the full configs, with fewer channels, proposals and samples; trained from scratch on a CPU in minutes.
_base_ = [
    '../_base_/backbones/swinv2_mini.py', './_base_/models/htc-pp_swinv2_fpn.py', './_base_/tta_ms-600-1600.py',
    './_base_/default_runtime.py'
]

classes = ('disc', 'triangle', 'star', 'square')
width = 48

model = dict(
    backbone=_base_.swinv2,
    neck=dict(in_channels=_base_.channels, out_channels=width, attention=dict(num_heads=16, drop_path_rate=0.)),
    rpn_head=dict(
        in_channels=width,
        feat_channels=width,
        anchor_generator=dict(scales=[6])),  # small images: anchors from 24 px instead of 32
    roi_head=dict(
        num_classes=len(classes),
        bbox_roi_extractor=dict(out_channels=width, roi_layer=dict(sampling_ratio=1)),
        bbox_head=[
            dict(
                type='Shared2FCBBoxHead',
                in_channels=width,
                fc_out_channels=256,
                roi_feat_size=7,
                bbox_coder=head.bbox_coder,
                reg_class_agnostic=True,
                loss_cls=head.loss_cls,
                loss_bbox=dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0))
            for head in _base_.model.roi_head.bbox_head
        ],
        mask_roi_extractor=dict(out_channels=width, roi_layer=dict(sampling_ratio=1)),
        mask_head=[
            dict(head, num_convs=2, in_channels=width, conv_out_channels=width)
            for head in _base_.model.roi_head.mask_head
        ]),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=[
            dict(stage, sampler=dict(stage.sampler, num=32, pos_fraction=0.5))
            for stage in _base_.model.train_cfg.rcnn
        ]),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)))

data_root = '{{$MMSWINV2_MINI_COCO:data/mini_coco/}}'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', scale=(176, 144), ratio_range=(0.9, 1.1), keep_ratio=True),
    dict(type='RandomCrop', crop_type='absolute', crop_size=(160, 160), recompute_bbox=True,
         allow_negative_crop=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(2, 2)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(176, 144), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
]
tta_model = dict(_delete_=True, type='mmswinv2.InstanceSegTTAModel')  # all scales for objects of all sizes
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=scale, keep_ratio=True) for scale in ((154, 126), (176, 144), (198, 162))],
            *_base_.tta_views,
        ])
]
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        metainfo=dict(classes=classes),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline))
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    persistent_workers=False,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        metainfo=dict(classes=classes),
        test_mode=True,
        pipeline=test_pipeline))
test_evaluator = dict(
    type='CocoMetric', ann_file=data_root + 'annotations/instances_val.json', metric=['bbox', 'segm'])

max_iters = 380
train_cfg = dict(type='mmswinv2.IterBasedTrainLoop', max_iters=max_iters)  # no validation: `mim test` follows
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0., by_epoch=False, begin=50, end=max_iters)
]
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmswinv2.SwinOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1.5e-3, weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=10.))
default_hooks = dict(
    logger=dict(interval=25, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=50, max_keep_ckpts=1))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
