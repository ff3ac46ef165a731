# Clips of 16 frames, every fourth, at 256 px: 8 tokens in time for patches of 2 frames; tested with 1 clip x 1 crop,
# the middle of frames of 292 px (256 x 8 / 7). Number of frames, interval and crops are our choice.
_base_ = './kinetics400.py'

image_size = 256
clip_len = 16
sample = dict(type='SampleFrames', clip_len=clip_len, frame_interval=4, num_clips=1)
resize = dict(type='Resize', scale=(-1, 292))
train_pipeline = [
    _base_.init,
    sample,
    _base_.decode,
    resize,
    dict(type='RandomResizedCrop'),
    dict(type='Resize', scale=(image_size, image_size), keep_ratio=False),
    dict(type='Flip', flip_ratio=0.5),
    *_base_.pack,
]
test_pipeline = [
    _base_.init,
    dict(sample, test_mode=True),
    _base_.decode,
    resize,
    dict(type='CenterCrop', crop_size=image_size),
    *_base_.pack,
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
