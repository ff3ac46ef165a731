# Cascade Mask R-CNN with SwinV2-T, window 32, linear_cpb: the ablation of Table 1 (51.7 box AP in the paper).
# The recipe of window 32 is not described there: that of window 16 is taken.
_base_ = './cascade-mask-rcnn_swinv2_t_w32_log-cpb.py'

# no weights with this position bias were released: name your own (IN-1K at 256 px, window 8) with
# --cfg-options model.backbone.init_cfg.checkpoint=FILE
model = dict(backbone=dict(position_bias='linear_cpb', init_cfg=dict(checkpoint=None)))
