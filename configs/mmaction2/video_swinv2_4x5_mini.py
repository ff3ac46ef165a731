# The small model tested with 4 x 5 views: 4 clips, each of 4 corners and the middle.
_base_ = './video_swinv2_mini.py'

test_pipeline = [
    _base_.init,
    dict(_base_.sample, num_clips=4, test_mode=True),
    _base_.decode,
    dict(type='Resize', scale=(-1, 36)),
    dict(type='mmswinv2.FiveCrop', crop_size=_base_.image_size),
    *_base_.pack,
]
test_dataloader = dict(batch_size=2, dataset=dict(pipeline=test_pipeline))
