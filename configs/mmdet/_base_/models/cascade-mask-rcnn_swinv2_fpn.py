# Cascade Mask R-CNN with the heads of Swin V1's official configuration: four convolutions with SyncBN, a linear layer,
# GIoU loss of weight 10 on decoded boxes, a regression per class (arXiv:2111.09883, appendix A1.2).
_base_ = './three-stage_swinv2_fpn.py'

model = dict(
    type='CascadeRCNN',
    # in_channels: in the leaf
    neck=dict(type='FPN', out_channels=_base_.fpn_channels, num_outs=5),
    roi_head=dict(
        type='mmswinv2.CascadeRoIHead',
        bbox_head=[dict(head, reg_class_agnostic=False) for head in _base_.model.roi_head.bbox_head],
        mask_head=dict(
            type='FCNMaskHead',
            num_convs=4,
            in_channels=_base_.fpn_channels,
            conv_out_channels=_base_.fpn_channels,
            loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0))),
    train_cfg=dict(
        rcnn=[
            dict(stage, assigner=dict(stage.assigner, match_low_quality=False))
            for stage in _base_.model.train_cfg.rcnn
        ]),
    test_cfg=dict(rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5))))
