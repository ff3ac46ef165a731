# SwinV2-S: C = 96 (arXiv:2111.09883, section 3.6), weights as released: IN-1K at 256 px, window 16. The windows of
# pre-training, the last stage's clamped to its map, normalise the log-CPB.
# For a leaf: `swinv2` are arguments of the backbone, `channels` those of its four maps, for necks and heads.
channels = [96 * 2**stage for stage in range(4)]
released = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/' \
    'swinv2_small_patch4_window16_256.pth'
swinv2 = dict(
    arch='small', pretrained_window_sizes=[16, 16, 16, 8], init_cfg=dict(type='Pretrained', checkpoint=released))
