# HTC++ with SwinV2-G and HTC's semantic branch (arXiv:1901.07518, section 3.3), which public HTC++ have; the paper does
# not say whether its own has. COCO's stuff maps must be in data/coco/stuffthingmaps.
_base_ = './htc_swinv2_g.py'

model = dict(data_preprocessor=dict(pad_seg=True), roi_head=_base_.semantic_branch)
train_dataloader = dict(dataset=_base_.train_with_stuff)
