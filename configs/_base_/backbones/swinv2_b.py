# SwinV2-B: C = 128 (arXiv:2111.09883, section 3.6), weights as released: IN-22K at 192 px, window 12. The windows of
# pre-training, the last stage's clamped to its map, normalise the log-CPB.
# For a leaf: `swinv2` are arguments of the backbone, `channels` those of its four maps, for necks and heads.
channels = [128 * 2**stage for stage in range(4)]
released = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/' \
    'swinv2_base_patch4_window12_192_22k.pth'
swinv2 = dict(
    arch='base', pretrained_window_sizes=[12, 12, 12, 6], init_cfg=dict(type='Pretrained', checkpoint=released))
