# UperNet with SwinV2-T for images and masks of one's own, at 512 px and window 32, on one GPU, from the weights on
# ImageNet: the base of a config that names folders and classes (docs/own_data.md). Sizes and schedule are our choice.
_base_ = [
    '../_base_/backbones/swinv2_t.py', './_base_/models/upernet_swinv2.py', './_base_/datasets/ade20k_512.py',
    './_base_/schedules/adamw_own-data.py', './_base_/default_runtime.py'
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(window_size=_base_.window_32, with_cp=False, **_base_.swinv2),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]))
own = dict(type='mmswinv2.MaskImages', data_root=None, data_prefix=dict(img_path='', seg_map_path=''))
train_dataloader = dict(batch_size=8, num_workers=2, dataset=own)
val_dataloader = dict(dataset=own)
test_dataloader = val_dataloader
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=500))
