# A classifier as released: the last map's norm, the mean over its tokens, a linear layer (arXiv:2111.09883, appendix
# A2.1; microsoft/Swin-Transformer, models/swin_transformer_v2.py). Mixup, CutMix and label smoothing as its config.py.
# No init_cfg for the model: it would reach into the backbone and set residual norms, which start at 0, to 1.
num_classes = 1000
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        type='ClsDataPreprocessor',
        num_classes=num_classes,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True),
    # window_size, arch, pretrained_window_sizes, init_cfg: in the leaf
    backbone=dict(type='mmswinv2.SwinTransformerV2', out_indices=(3, ), drop_path_rate=0.2),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=num_classes,
        # in_channels: in the leaf
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02)),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]))
