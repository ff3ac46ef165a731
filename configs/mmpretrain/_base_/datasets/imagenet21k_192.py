# ImageNet-22K (21,841 classes) at 192 px: data/imagenet21k, and a list of its images, one `NAME LABEL` per line, which
# nobody distributes: --cfg-options train_dataloader.dataset.ann_file=FILE val_dataloader.dataset.ann_file=FILE. Which
# images the authors validated with is not stated.
_base_ = './imagenet_192.py'

data_root = 'data/imagenet21k'
train_dataloader = dict(dataset=dict(
    _delete_=True, type='mmswinv2.ImageNet22K', data_root=data_root, ann_file='', pipeline=_base_.train_pipeline))
val_dataloader = dict(dataset=dict(
    _delete_=True, type='mmswinv2.ImageNet22K', data_root=data_root, ann_file='', pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader
