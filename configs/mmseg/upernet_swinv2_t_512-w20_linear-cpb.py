# UperNet with SwinV2-T at 512 px, window 20, linear_cpb: the ablation of Table 1 (47.4 mIoU in the paper);
# the size of images for window 20 is not stated there: that of window 16 is taken.
_base_ = './upernet_swinv2_t_512-w20_log-cpb.py'

# no weights with this position bias were released: name your own (IN-1K at 256 px, window 8) with
# --cfg-options model.backbone.init_cfg.checkpoint=FILE
model = dict(backbone=dict(position_bias='linear_cpb', init_cfg=dict(checkpoint=None)))
