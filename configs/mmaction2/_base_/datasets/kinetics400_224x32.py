# Clips of 32 frames, every second, at 224 px; tested with 4 clips x 3 crops (mmaction2, configs/recognition/swin).
_base_ = './kinetics400.py'

image_size = 224
clip_len = 32
sample = dict(type='SampleFrames', clip_len=clip_len, frame_interval=2, num_clips=1)
train_pipeline = [
    _base_.init,
    sample,
    _base_.decode,
    dict(type='Resize', scale=(-1, 256)),
    dict(type='RandomResizedCrop'),
    dict(type='Resize', scale=(image_size, image_size), keep_ratio=False),
    dict(type='Flip', flip_ratio=0.5),
    *_base_.pack,
]
val_pipeline = [
    _base_.init,
    dict(sample, test_mode=True),
    _base_.decode,
    dict(type='Resize', scale=(-1, 256)),
    dict(type='CenterCrop', crop_size=image_size),
    *_base_.pack,
]
test_pipeline = [
    _base_.init,
    dict(sample, num_clips=4, test_mode=True),
    _base_.decode,
    dict(type='Resize', scale=(-1, image_size)),
    dict(type='ThreeCrop', crop_size=image_size),
    *_base_.pack,
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
