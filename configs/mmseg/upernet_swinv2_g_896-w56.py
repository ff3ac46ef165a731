# UperNet with SwinV2-G tested at 896 px and window 56, from a checkpoint trained at 640 px and window 40: the row
# with 59.3 mIoU in Table 4 (arXiv:2111.09883), and with --tta that with 59.9. The last stage keeps half the window.
_base_ = './upernet_swinv2_g.py'

model = dict(backbone=dict(window_size=[56, 56, 56, 28]))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(3584, 896), keep_ratio=True),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='mmswinv2.CheckLabels', num_classes=150),
    dict(type='PackSegInputs')
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
tta_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(int(3584 * ratio), int(896 * ratio)), keep_ratio=True)
                for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
            ],
            [
                dict(type='RandomFlip', prob=0., direction='horizontal'),
                dict(type='RandomFlip', prob=1., direction='horizontal')
            ],
            [dict(type='LoadAnnotations', reduce_zero_label=True)],
            [dict(type='mmswinv2.CheckLabels', num_classes=150)],
            [dict(type='PackSegInputs')],
        ])
]
