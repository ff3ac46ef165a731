# The small data set of demos/make_mini_imagenet.py at 32 px: a folder per class. Crops of 0.35 to 1 of the side,
# scaled to the whole: without them nothing transfers to another size, whatever the position bias.
data_root = '{{$MMSWINV2_MINI_IMAGENET:data/mini_imagenet/}}'
image_size = 32
crop = dict(
    type='RandomResizedCrop',
    scale=image_size,
    crop_ratio_range=(0.12, 1.0),
    aspect_ratio_range=(1., 1.),
    backend='pillow',
    interpolation='bicubic')
flip = dict(type='RandomFlip', prob=0.5, direction='horizontal')
resize = dict(type='Resize', scale=(image_size, image_size), backend='pillow', interpolation='bicubic')
train_pipeline = [dict(type='LoadImageFromFile'), crop, flip, dict(type='PackInputs')]
test_pipeline = [dict(type='LoadImageFromFile'), resize, dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='CustomDataset', data_root=data_root, data_prefix='train', pipeline=train_pipeline))
test_dataloader = dict(
    batch_size=100,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CustomDataset', data_root=data_root, data_prefix='val', pipeline=test_pipeline))
test_evaluator = dict(type='Accuracy', topk=(1, ))
