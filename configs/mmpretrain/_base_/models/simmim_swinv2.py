# SimMIM (arXiv:2111.09886) as the release trains SwinV2 (models/simmim.py, configs/simmim): cells of 32 px, 60%
# masked, the pixels of the masked ones predicted by a linear layer of the last map, L1 of pixels normalised in boxes
# of 47 px.
model = dict(
    type='mmswinv2.SimMIM',
    data_preprocessor=dict(
        type='SelfSupDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True),
    # window_size, arch, pretrained_window_sizes: in the leaf
    backbone=dict(type='mmswinv2.SimMIMSwinTransformerV2', out_indices=(3, ), drop_path_rate=0.1),
    neck=dict(type='SimMIMLinearDecoder', encoder_stride=32),  # in_channels: in the leaf
    head=dict(type='mmswinv2.SimMIMHead', norm_target=47))
