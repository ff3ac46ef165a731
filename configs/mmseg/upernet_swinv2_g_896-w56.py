# UperNet with SwinV2-G tested at 896 px and window 56, from a checkpoint trained at 640 px and window 40: the row
# with 59.3 mIoU in Table 4 (arXiv:2111.09883), and with --tta that with 59.9. The last stage keeps half the window.
_base_ = './upernet_swinv2_g.py'

image_scale = (3584, 896)
model = dict(backbone=dict(window_size=_base_.window_56))
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
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
