# UperNet with SwinV2-T at 512 px, window 16, parameterized: the ablation of Table 1 (45.5 mIoU in the paper).
_base_ = './upernet_swinv2_t_512-w16_log-cpb.py'

# no weights with this position bias were released: name your own (IN-1K at 256 px, window 8) with
# --cfg-options model.backbone.init_cfg.checkpoint=FILE
model = dict(backbone=dict(position_bias='parameterized', init_cfg=dict(checkpoint=None)))
