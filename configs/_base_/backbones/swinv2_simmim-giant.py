# The 1.06B model of SimMIM: C = 448 (MODELHUB.md of microsoft/Swin-Transformer), not the paper's SwinV2-G. The public
# weights (192 px, window 12) are read as they are: name the file with
# --cfg-options model.backbone.init_cfg.checkpoint=FILE
# For a leaf: `swinv2` are arguments of the backbone, `channels` those of its four maps, for necks and heads.
channels = [448 * 2**stage for stage in range(4)]
swinv2 = dict(
    arch='simmim_giant', pretrained_window_sizes=[12, 12, 12, 6], init_cfg=dict(type='Pretrained', checkpoint=None))
