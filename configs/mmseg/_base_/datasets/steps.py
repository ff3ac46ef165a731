# Steps of pipelines on ADE20K that do not depend on the size of images (arXiv:2111.09883, appendices A1.2 and A2:
# rescaling 0.5 to 2.0, flips, photometric distortion); the sizes are in the fragments and leaves that use them.
# Augmentation at test: scales relative to the test scale, 0.5 to 1.75, and flips, as in Swin V1; the paper does not
# state its own.
read_labels = [
    dict(type='LoadAnnotations'),  # reduce_zero_label is the data set's: True for ADE20K
    dict(type='mmswinv2.CheckLabels', num_classes=150),
]
random_resize = dict(type='RandomResize', ratio_range=(0.5, 2.0), keep_ratio=True)  # and scale
random_crop = dict(type='RandomCrop', cat_max_ratio=0.75)  # and crop_size
augment = [dict(type='RandomFlip', prob=0.5), dict(type='PhotoMetricDistortion'), dict(type='PackSegInputs')]
tta_ratios = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
# what is done with an image of any scale
tta_views = [
    [
        dict(type='RandomFlip', prob=0., direction='horizontal'),
        dict(type='RandomFlip', prob=1., direction='horizontal')
    ],
    *([step] for step in read_labels),
    [dict(type='PackSegInputs')],
]
