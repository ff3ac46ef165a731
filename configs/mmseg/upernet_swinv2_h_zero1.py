# UperNet with SwinV2-H with ZeRO stage 1 (arXiv:2111.09883, section 3.5), the backbone in bfloat16:
# mim train mmseg ... --launcher pytorch --gpus 8
_base_ = ['./upernet_swinv2_h.py', './_base_/zero1.py']

model = dict(backbone=dict(autocast_dtype='bfloat16'))
