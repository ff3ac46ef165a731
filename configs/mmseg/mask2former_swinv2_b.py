# Mask2Former with SwinV2-B on ADE20K at 640 px, the backbone in bfloat16.
_base_ = ['../_base_/backbones/swinv2_b.py', './_base_/models/mask2former_swinv2.py']

model = dict(backbone=_base_.swinv2, decode_head=dict(in_channels=_base_.channels))
