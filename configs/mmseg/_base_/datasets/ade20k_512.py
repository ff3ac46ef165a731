# ADE20K at 512 px (arXiv:2111.09883, appendix A1.2).
_base_ = ['./ade20k.py', './steps.py']

crop_size = (512, 512)
image_scale = (2048, 512)
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
            for ratio in _base_.tta_ratios
        ], *_base_.tta_views]),
]
train_dataloader = dict(
    batch_size=2,  # on 8 GPUs: 16
    dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
