# HTC++ with SwinV2-G on GPUs of 40 GiB: weights, gradients and states of the optimizer divided among them (FSDP):
# mim train mmdet ... --launcher pytorch --gpus 8
_base_ = ['./htc_swinv2_g.py', './_base_/fsdp.py']

model = dict(
    backbone=dict(autocast_dtype='bfloat16'),
    neck=[dict(_base_.model.neck[0], autocast_dtype='bfloat16'), _base_.model.neck[1]])
