# HTC++ with SwinV2-L and the multi-scale training of Swin V1's HTC++: short side 400 to 1400 px, long side at most
# 1600, instead of large-scale jitter (arXiv:2103.14030, appendix A2.2).
_base_ = './htc_swinv2_l.py'

train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    _base_.instaboost,
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', scale=[(1600, 400), (1600, 1400)], keep_ratio=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
