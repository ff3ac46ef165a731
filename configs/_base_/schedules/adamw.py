# What the recipes share: AdamW with weight decay 0.05 (arXiv:2111.09883, appendices A1.2 and A2) and the loops.
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmswinv2.SwinOptimWrapperConstructor',
    optimizer=dict(type='AdamW', betas=(0.9, 0.999), weight_decay=0.05))
