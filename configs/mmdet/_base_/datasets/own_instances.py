# Loaders and the metric of instances of one's own in COCO's format, checked by mmswinv2.CocoInstances. A config of
# one's own names files and classes: docs/own_data.md. Pipelines are in the fragments and leaves that use it.
_base_ = './coco.py'

own = dict(type='mmswinv2.CocoInstances', data_root=None, ann_file='', data_prefix=dict(img=''))
train_dataloader = dict(
    num_workers=2, sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True), batch_sampler=None, dataset=own)
val_dataloader = dict(dataset=own)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=None, classwise=True)
test_evaluator = val_evaluator
