# UperNet with a small SwinV2 on the small data set of demos/make_mini_ade20k.py: what `make demo-seg` runs. The parts
# are those of the full configs, with fewer channels; trained from scratch on a CPU in minutes, with windows of 8.
_base_ = [
    '../_base_/backbones/swinv2_mini.py', './_base_/models/upernet_swinv2.py', './_base_/datasets/steps.py',
    './_base_/default_runtime.py'
]

width = 64
crop_size = (128, 128)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=_base_.swinv2,
    decode_head=dict(in_channels=_base_.channels, channels=width),
    auxiliary_head=dict(in_channels=_base_.channels[2], channels=width))

data_root = '{{$MMSWINV2_MINI_ADE20K:data/mini_ade20k/}}'
image_scale = (192, 160)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    *_base_.read_labels,
    dict(_base_.random_resize, scale=image_scale, ratio_range=(0.8, 1.5)),
    dict(_base_.random_crop, crop_size=crop_size),
    *_base_.augment,
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_scale, keep_ratio=True),
    *_base_.read_labels,
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(
        type='TestTimeAug',
        transforms=[[
            dict(type='Resize', scale=tuple(int(side * ratio) for side in image_scale), keep_ratio=True)
            for ratio in (0.75, 1.0, 1.25)
        ], *_base_.tta_views]),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='ADE20KDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline))
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ADE20KDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline))
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])

max_iters = 300
train_cfg = dict(type='mmswinv2.IterBasedTrainLoop', max_iters=max_iters)  # no validation: `mim test` follows
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type='PolyLR', eta_min=0., power=1.0, by_epoch=False, begin=30, end=max_iters)
]
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmswinv2.SwinOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=10.))
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=50, max_keep_ckpts=1))
randomness = dict(seed=0)
