# SimMIM of a small SwinV2 on the small data set of demos/make_mini_imagenet.py: what `make demo-simmim` runs. Cells
# of 8 px, 60% of them masked; the validation is the masked L1 of the images that are held out.
_base_ = [
    '../_base_/backbones/swinv2_mini_32px.py', './_base_/models/simmim_swinv2.py',
    './_base_/datasets/mini_imagenet.py', './_base_/schedules/adamw_mini.py', './_base_/default_runtime.py'
]

model = dict(
    backbone=_base_.swinv2,
    neck=dict(in_channels=_base_.channels[2], encoder_stride=16),
    head=dict(norm_target=None))
mask = dict(type='SimMIMMaskGenerator', input_size=32, mask_patch_size=8, model_patch_size=4, mask_ratio=0.6)
pack = dict(type='PackInputs')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(_base_.crop, crop_ratio_range=(0.67, 1.0)),
    _base_.flip,
    mask,
    pack,
]
test_pipeline = [dict(type='LoadImageFromFile'), _base_.resize, mask, pack]
train_dataloader = dict(dataset=dict(with_label=False, pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(with_label=False, pipeline=test_pipeline))
test_evaluator = dict(_delete_=True, type='mmswinv2.MaskedL1')
default_hooks = dict(
    logger=dict(interval=25, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=100, max_keep_ckpts=1))
