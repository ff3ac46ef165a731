# Cascade Mask R-CNN with SwinV2-T, window 16, parameterized: the ablation of Table 1 (50.8 box AP in the paper).
_base_ = './cascade-mask-rcnn_swinv2_t_w16_log-cpb.py'

# no weights with this position bias were released: name your own (IN-1K at 256 px, window 8) with
# --cfg-options model.backbone.init_cfg.checkpoint=FILE
model = dict(backbone=dict(position_bias='parameterized', init_cfg=dict(checkpoint=None)))
