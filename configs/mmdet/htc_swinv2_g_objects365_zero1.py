# SwinV2-G on Objects365 v2 with ZeRO stage 1 (arXiv:2111.09883, section 3.5), the backbone in bfloat16:
# mim train mmdet ... --launcher pytorch --gpus 8
_base_ = ['./htc_swinv2_g_objects365.py', './_base_/zero1.py']

model = dict(
    backbone=dict(autocast_dtype='bfloat16'),
    neck=[dict(_base_.model.neck[0], autocast_dtype='bfloat16'), _base_.model.neck[1]])
