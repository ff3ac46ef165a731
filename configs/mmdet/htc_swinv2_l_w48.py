# HTC++ with SwinV2-L at test with windows of 48 tokens, from a checkpoint trained with 32: the second row of Table 3,
# and with --tta the third (arXiv:2111.09883). The last stage keeps half the window.
_base_ = './htc_swinv2_l.py'

model = dict(backbone=dict(window_size=_base_.window_48))
