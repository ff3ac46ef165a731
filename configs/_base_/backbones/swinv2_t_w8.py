# SwinV2-T of the ablation (arXiv:2111.09883, Table 1): IN-1K at 256 px, window 8 in each stage, for the map of the last
# is 8 x 8. Only the weights with log-CPB were released.
_base_ = './swinv2_t.py'

released = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/' \
    'swinv2_tiny_patch4_window8_256.pth'
swinv2 = dict(pretrained_window_sizes=[8, 8, 8, 8], init_cfg=dict(checkpoint=released))
