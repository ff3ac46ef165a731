# What `mim test mmdet CONFIG --checkpoint FILE --tta` does: six scales and their flips, boxes and masks. The paper
# (arXiv:2111.09883, Table 3, "ms") does not state its scales: these are our choice, after public HTC++ configurations.
tta_model = dict(type='mmswinv2.InstanceSegTTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(3000, short), keep_ratio=True)
                for short in (600, 800, 1000, 1200, 1400, 1600)
            ],
            [dict(type='RandomFlip', prob=0.), dict(type='RandomFlip', prob=1.)],
            [dict(type='LoadAnnotations', with_bbox=True, with_mask=True)],
            [
                dict(
                    type='PackDetInputs',
                    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip',
                               'flip_direction'))
            ],
        ])
]
