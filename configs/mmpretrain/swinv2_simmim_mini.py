# The small SwinV2 fine-tuned on few labels after SimMIM: --cfg-options model.backbone.init_cfg.checkpoint=FILE, a
# checkpoint of simmim_swinv2_mini.py; model.backbone.init_cfg=None for the same from random weights.
_base_ = './swinv2_mini.py'

model = dict(backbone=dict(init_cfg=dict(_delete_=True, type='Pretrained', checkpoint=None)))
train_dataloader = dict(dataset=dict(indices=list(range(0, 12000, 24))))  # 500, of each class
max_iters = 300
train_cfg = dict(max_iters=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type='CosineAnnealingLR', eta_min=0., by_epoch=False, begin=30, end=max_iters)
]
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.75, merging_layers=False))
