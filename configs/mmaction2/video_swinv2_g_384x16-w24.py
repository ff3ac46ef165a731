# The test of SwinV2-G at 384 x 384 px, windows of 24 x 24 x 8, with 1 x 1 views (Table 5: 83.4): a checkpoint of
# video_swinv2_g_320x16-w20.py. It is not trained with.
_base_ = './video_swinv2_g_320x16-w20.py'

image_size = 384
model = dict(backbone=dict(window_size=[[8, 24, 24]] * 3 + [[8, 12, 12]]))
test_pipeline = [
    _base_.init,
    dict(_base_.sample, test_mode=True),
    _base_.decode,
    dict(type='Resize', scale=(-1, 439)),
    dict(type='CenterCrop', crop_size=image_size),
    *_base_.pack,
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
