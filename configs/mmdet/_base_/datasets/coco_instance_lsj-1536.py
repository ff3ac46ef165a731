# COCO instances with InstaBoost and large-scale jitter on a fixed canvas of 1536 x 1536 px: ratio 0.1 to 2.0
# (arXiv:2111.09883, appendix A2). The flip is our choice, as everywhere in mmdet. At test the short side is 1100 px
# (Table 3); the cap of the long side, 1800 px, is our choice.
#
# InstaBoost needs `pip install instaboostfast`. Without it: in a config of your own,
# train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline_without_instaboost))
# For the semantic branch, COCO's stuff maps must be in data/coco/stuffthingmaps. InstaBoost moves objects and not the
# maps: it is left out there.
_base_ = './coco.py'

image_size = (1536, 1536)
# HTC++'s (arXiv:2103.14030, appendix A2.2); the values are those of InstaBoost's authors and mmdet
instaboost = dict(
    type='InstaBoost',
    action_candidate=('normal', 'horizontal', 'skip'),
    action_prob=(1, 0, 0),
    scale=(0.8, 1.2),
    dx=15,
    dy=15,
    theta=(-1, 1),
    color_prob=0.5,
    hflag=False,
    aug_ratio=0.5)
jitter = [
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', scale=image_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_type='absolute', crop_size=image_size, recompute_bbox=True, allow_negative_crop=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Pad', size=image_size, pad_val=dict(img=(114, 114, 114))),
    dict(type='PackDetInputs')
]
train_pipeline_without_instaboost = [dict(type='LoadImageFromFile', backend_args=_base_.backend_args), *jitter]
train_pipeline = [dict(type='LoadImageFromFile', backend_args=_base_.backend_args), instaboost, *jitter]
train_with_stuff = dict(
    data_prefix=dict(img='train2017/', seg='stuffthingmaps/train2017/'),
    pipeline=[
        dict(type='LoadImageFromFile', backend_args=_base_.backend_args),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True, with_seg=True),
        *jitter[1:-2],
        dict(type='Pad', size=image_size, pad_val=dict(img=(114, 114, 114), seg=255)),
        dict(type='PackDetInputs')
    ])
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=_base_.backend_args),
    dict(type='Resize', scale=(1800, 1100), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
]
train_dataloader = dict(
    batch_size=8,  # on 8 GPUs: 64
    dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
