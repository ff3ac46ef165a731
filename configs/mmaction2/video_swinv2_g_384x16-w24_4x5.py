# The test of SwinV2-G at 384 x 384 px with 4 x 5 views (Table 5: 86.8): 4 clips, each of 4 corners and the middle, two
# views at a time. Which five crops the paper means is not stated.
_base_ = './video_swinv2_g_320x16-w20.py'

image_size = 384
model = dict(
    backbone=dict(window_size=[[8, 24, 24]] * 3 + [[8, 12, 12]]), test_cfg=dict(max_testing_views=2))
test_pipeline = [
    _base_.init,
    dict(_base_.sample, num_clips=4, test_mode=True),
    _base_.decode,
    dict(type='Resize', scale=(-1, 439)),
    dict(type='mmswinv2.FiveCrop', crop_size=image_size),
    *_base_.pack,
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
