# A small SwinV2 for the demos: random weights, windows of 8.
# For a leaf: `swinv2` are arguments of the backbone, `channels` those of its four maps, for necks and heads.
channels = [48 * 2**stage for stage in range(4)]
swinv2 = dict(
    arch=dict(embed_dims=48, depths=[2, 2, 2, 2], num_heads=[2, 4, 8, 16]),
    window_size=8,
    pretrained_window_sizes=8,  # stays 8 when the window is overridden at test
    drop_path_rate=0.,
    init_cfg=None)
