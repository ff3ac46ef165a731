# ADE20K at 1536 px, a variant of ours with the detector's resolution; augmentation at test up to 1.5 times that size.
_base_ = ['./ade20k.py', './steps.py']

crop_size = (1536, 1536)
image_scale = (6144, 1536)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    *_base_.read_labels,
    dict(_base_.random_resize, scale=image_scale),
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
            for ratio in _base_.tta_ratios[:-1]
        ], *_base_.tta_views]),
]
train_dataloader = dict(
    batch_size=1,  # more by passes: see the leaf
    dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
