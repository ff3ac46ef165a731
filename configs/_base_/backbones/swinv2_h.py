# SwinV2-H: C = 352 (arXiv:2111.09883, section 3.6). The public SimMIM weights (192 px, window 12) are read as they are:
# name the file with --cfg-options model.backbone.init_cfg.checkpoint=FILE
# For a leaf: `swinv2` are arguments of the backbone, `channels` those of its four maps, for necks and heads.
channels = [352 * 2**stage for stage in range(4)]
swinv2 = dict(
    arch='huge', pretrained_window_sizes=[12, 12, 12, 6], init_cfg=dict(type='Pretrained', checkpoint=None))
# how to make such weights: recipes, and the file that each leaves
weights_from = [('configs/mmpretrain/simmim_swinv2_h_192-w12.py', 'work_dirs/simmim_swinv2_h_192-w12/epoch_800.pth')]
