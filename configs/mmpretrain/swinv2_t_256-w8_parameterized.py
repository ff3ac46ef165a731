# SwinV2-T on ImageNet-1K at 256 px, window 8, parameterized: the ablation of Table 1; swinv2_t_256-w8.py has log_cpb.
_base_ = './swinv2_t_256-w8.py'

model = dict(backbone=dict(position_bias='parameterized'))
