# UperNet with SwinV2-G at 1536 px and window 32, with activation checkpointing: a variant of ours, with the detector's
# resolution and windows.
_base_ = './upernet_swinv2_g.py'

crop_size = (1536, 1536)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(window_size=[32, 32, 32, 16], with_cp=True))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='mmswinv2.CheckLabels', num_classes=150),
    dict(type='RandomResize', scale=(6144, 1536), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(6144, 1536), keep_ratio=True),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='mmswinv2.CheckLabels', num_classes=150),
    dict(type='PackSegInputs')
]
# 8 GPUs x 1 image x 4 passes = 32; iterations are steps of the optimizer
optim_wrapper = dict(accumulative_counts=4)
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
tta_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(int(6144 * ratio), int(1536 * ratio)), keep_ratio=True)
                for ratio in (0.5, 0.75, 1.0, 1.25, 1.5)
            ],
            [
                dict(type='RandomFlip', prob=0., direction='horizontal'),
                dict(type='RandomFlip', prob=1., direction='horizontal')
            ],
            [dict(type='LoadAnnotations', reduce_zero_label=True)],
            [dict(type='mmswinv2.CheckLabels', num_classes=150)],
            [dict(type='PackSegInputs')],
        ])
]
