# The control of the demo: the same model tested on the same clips with their frames shuffled.
_base_ = './video_swinv2_mini.py'

test_pipeline = [
    _base_.init,
    dict(_base_.sample, test_mode=True),
    dict(type='mmswinv2.ShuffleFrames'),
    _base_.decode,
    *_base_.pack,
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
