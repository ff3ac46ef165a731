# ImageNet-1K at 224 px; tests resize the short side to 256 px and crop the middle, as in the release (256 / 224 of
# the size).
_base_ = './imagenet.py'

image_size = 224
train_pipeline = [dict(type='LoadImageFromFile'), dict(_base_.random_crop, scale=image_size), *_base_.augment]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(_base_.resize_edge, scale=256),
    dict(type='CenterCrop', crop_size=image_size),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
