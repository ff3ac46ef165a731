# ImageNet-1K at 512 px; tests resize to 512 x 512 without a crop, as the release does from 384 px (data/build.py).
_base_ = './imagenet.py'

image_size = 512
train_pipeline = [dict(type='LoadImageFromFile'), dict(_base_.random_crop, scale=image_size), *_base_.augment]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(image_size, image_size), backend='pillow', interpolation='bicubic'),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
