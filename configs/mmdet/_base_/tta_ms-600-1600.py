# What `mim test mmdet CONFIG --checkpoint FILE --tta` does: six scales and their flips, boxes and masks. The paper
# (arXiv:2111.09883, Table 3, "ms") does not state its scales: these are our choice, those of ViT-Adapter's HTC++, and
# so are the sizes of objects that a scale is used for: small scales for large objects and large ones for small. All
# scales for all: --cfg-options tta_model.size_ranges=None
tta_model = dict(
    type='mmswinv2.InstanceSegTTAModel',
    size_ranges=[(96, None), (96, None), (32, None), (0, 96), (0, 96), (0, 96)])  # px, one per scale
# what is done with an image of any scale; scales of your own: [[dict(type='Resize', ...), ...], *_base_.tta_views]
tta_views = [
    [dict(type='RandomFlip', prob=0.), dict(type='RandomFlip', prob=1.)],
    [dict(type='LoadAnnotations', with_bbox=True, with_mask=True)],
    [
        dict(
            type='PackDetInputs',
            meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction'))
    ],
]
tta_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(3000, short), keep_ratio=True)
                for short in (600, 800, 1000, 1200, 1400, 1600)
            ],
            *tta_views,
        ])
]
