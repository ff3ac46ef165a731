# UperNet with SwinV2-B, the backbone in bfloat16 (float32 weights, outputs and heads), in training and at test.
_base_ = './upernet_swinv2_b.py'

model = dict(backbone=dict(autocast_dtype='bfloat16'))
