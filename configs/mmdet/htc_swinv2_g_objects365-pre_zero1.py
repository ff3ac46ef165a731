# HTC++ with SwinV2-G on COCO from the stage on Objects365, both with ZeRO stage 1 (arXiv:2111.09883, section 3.5), the
# backbone in bfloat16: mim train mmdet ... --launcher pytorch --gpus 8
_base_ = ['./htc_swinv2_g.py', './_base_/zero1.py']

model = dict(
    backbone=dict(autocast_dtype='bfloat16', init_cfg=None),  # load_from has its weights
    neck=[dict(_base_.model.neck[0], autocast_dtype='bfloat16'), _base_.model.neck[1]])
load_from = 'work_dirs/htc_swinv2_g_objects365_zero1/iter_67500.pth'
