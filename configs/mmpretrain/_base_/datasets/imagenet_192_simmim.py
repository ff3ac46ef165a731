# ImageNet-1K at 192 px without labels: crops of at least 0.67 of the image, flips, masks (the release's
# data/data_simmim_pt.py). It does not validate; neither does this.
image_size = 192
mask = dict(
    type='SimMIMMaskGenerator', input_size=image_size, mask_patch_size=32, model_patch_size=4, mask_ratio=0.6)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='RandomResizedCrop',
        scale=image_size,
        crop_ratio_range=(0.67, 1.0),
        backend='pillow',
        interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    mask,
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=256,  # on 8 GPUs: 2048
    num_workers=8,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='ImageNet', data_root='data/imagenet', split='train', pipeline=train_pipeline))
