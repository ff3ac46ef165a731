# ImageNet-1K: data/imagenet with train/ and val/, a folder per class, or meta/{train,val}.txt. Loaders, metric, and
# the augmentation of the release (config.py: rand-m9-mstd0.5-inc1, random erasing 0.25 by pixels; colour jitter is
# not used where RandAugment is). Sizes are in the fragments beside it.
bgr_mean = [103.53, 116.28, 123.675]
augment = [
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='RandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic')),
    dict(
        type='RandomErasing',
        erase_prob=0.25,
        mode='rand',
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=bgr_mean,
        fill_std=[57.375, 57.12, 58.395]),
    dict(type='PackInputs'),
]
random_crop = dict(type='RandomResizedCrop', backend='pillow', interpolation='bicubic')  # and scale
resize_edge = dict(type='ResizeEdge', edge='short', backend='pillow', interpolation='bicubic')  # and scale

data_root = 'data/imagenet'
train_dataloader = dict(
    batch_size=128,  # on 8 GPUs: 1024
    num_workers=8,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='ImageNet', data_root=data_root, split='train'))
val_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='ImageNet', data_root=data_root, split='val'))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
