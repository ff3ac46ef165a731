# SwinV2-G, 3.0B parameters: C = 512 (arXiv:2111.09883, section 3.6). Its weights (192 px, window 12) were never
# released: name your own with --cfg-options model.backbone.init_cfg.checkpoint=FILE
# For a leaf: `swinv2` are arguments of the backbone, `channels` those of its four maps, for necks and heads.
channels = [512 * 2**stage for stage in range(4)]
swinv2 = dict(
    arch='g', pretrained_window_sizes=[12, 12, 12, 6], init_cfg=dict(type='Pretrained', checkpoint=None))
# how to make them, in order: recipes, and the file that each leaves
weights_from = [
    ('configs/mmpretrain/simmim_swinv2_g_192-w12.py', 'work_dirs/simmim_swinv2_g_192-w12/epoch_20.pth'),
    ('configs/mmpretrain/swinv2_g_22k-ext_192-w12.py', 'work_dirs/swinv2_g_22k-ext_192-w12/epoch_30.pth'),
]
