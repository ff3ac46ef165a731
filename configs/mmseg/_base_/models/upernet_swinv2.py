# UperNet (arXiv:1807.10221) with a SwinV2 backbone, as in Swin V1's official configuration: pooling scales 1, 2, 3, 6,
# 512 channels, an auxiliary FCN head on the third map with weight 0.4.
norm_cfg = dict(type='SyncBN', requires_grad=True)
num_classes = 150
# Windows in tokens. The last stage has half, as in pre-training (6 of 12). 40 is for 640 px, 56 for tests at 896 px
# (arXiv:2111.09883, Table 4), 32 for 1536 px, as in the detector.
window_40 = [40, 40, 40, 20]
window_56 = [56, 56, 56, 28]
window_32 = [32, 32, 32, 16]

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        # size: that of the crops, with the dataset
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255),
    backbone=dict(
        type='mmswinv2.SwinTransformerV2',
        # arch, pretrained_window_sizes, init_cfg: `swinv2` of a size; window_size: in the leaf
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.3),
    decode_head=dict(
        type='UPerHead',
        # in_channels: in the leaf
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=512,
        dropout_ratio=0.1,
        num_classes=num_classes,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    auxiliary_head=dict(
        type='FCNHead',
        # in_channels: in the leaf
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=num_classes,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
