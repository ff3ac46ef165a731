# HTC++ with SwinV2-L, the backbone in bfloat16 (float32 weights, outputs, neck and heads), in training and at test.
_base_ = './htc_swinv2_l.py'

model = dict(backbone=dict(autocast_dtype='bfloat16'))
