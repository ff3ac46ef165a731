# HTC++ with SwinV2-T, the backbone and its global attention in bfloat16 (float32 weights, outputs,
# FPN and heads), in training and at test.
_base_ = './htc_swinv2_t.py'

model = dict(
    backbone=dict(autocast_dtype='bfloat16'),
    neck=[dict(_base_.model.neck[0], autocast_dtype='bfloat16'), _base_.model.neck[1]])
