# HTC++ with SwinV2-G, the states of the optimizer divided among the GPUs (ZeRO stage 1, as in the paper, section 3.5):
# mim train mmdet ... --launcher pytorch --gpus 8
_base_ = ['./htc_swinv2_g_amp-bf16.py', './_base_/zero1.py']
