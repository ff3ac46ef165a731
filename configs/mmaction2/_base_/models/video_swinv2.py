# A recognizer: the last map's norm, the mean over its tokens, dropout, a linear layer, as Video Swin Transformer's
# (arXiv:2106.13230; mmaction2, configs/recognition/swin). Weights on images are inflated as they are loaded.
num_classes = 400
model = dict(
    type='Recognizer3D',
    data_preprocessor=dict(
        type='ActionDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        format_shape='NCTHW'),
    # arch, window_size, pretrained_window_sizes, init_cfg: in the leaf
    backbone=dict(type='mmswinv2.VideoSwinTransformerV2', temporal_patch_size=2, out_indices=(3, ), drop_path_rate=0.1),
    cls_head=dict(
        type='I3DHead',
        # in_channels: in the leaf
        num_classes=num_classes,
        spatial_type='avg',
        dropout_ratio=0.5,
        average_clips='prob'))
