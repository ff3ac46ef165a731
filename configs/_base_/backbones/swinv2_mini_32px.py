# A small SwinV2 for images of 32 px: three stages, windows of 4, random weights.
# For a leaf: `swinv2` are arguments of the backbone, `channels` those of its three maps, for necks and heads.
channels = [48 * 2**stage for stage in range(3)]
swinv2 = dict(
    arch=dict(embed_dims=48, depths=[2, 2, 2], num_heads=[2, 4, 8]),
    window_size=[4, 4, 2],
    pretrained_window_sizes=[4, 4, 2],  # stay when the window is overridden at test
    out_indices=(2, ),
    drop_path_rate=0.,
    init_cfg=None)
