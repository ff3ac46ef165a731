# HTC++ with a SwinV2 backbone: Hybrid Task Cascade (arXiv:1901.07518: three stages, interleaved, mask information flow)
# with the mean of the three stages' masks at test, a layer of global attention on the last map and soft-NMS (HTC++:
# arXiv:2103.14030, appendix A2.2). Our choice, the papers being silent: box heads of four convolutions with SyncBN and
# a linear layer, GIoU loss of weight 10 on decoded boxes. Swin V1's authors have them in their Cascade Mask R-CNN,
# CBNetV2 in its HTC, ViT-Adapter where it starts from Objects365; all of these have four convolutions.
_base_ = './three-stage_swinv2_fpn.py'

# HTC's semantic branch (arXiv:1901.07518, section 3.3), which public HTC++ have and the paper does not mention: for the
# leaves that end in _semantic
semantic_branch = dict(
    semantic_roi_extractor=dict(
        type='mmswinv2.SingleRoIExtractor',
        roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0),
        out_channels=_base_.fpn_channels,
        featmap_strides=[8]),
    semantic_head=dict(
        type='FusedSemanticHead',
        num_ins=5,
        fusion_level=1,
        seg_scale_factor=1 / 8,
        num_convs=4,
        in_channels=_base_.fpn_channels,
        conv_out_channels=_base_.fpn_channels,
        num_classes=183,
        loss_seg=dict(type='CrossEntropyLoss', ignore_index=255, loss_weight=0.2)))

model = dict(
    type='mmswinv2.HybridTaskCascade',  # its neck computes in the precision of the backbone
    # in_channels: in the leaf
    neck=dict(type='mmswinv2.GlobalAttentionFPN', out_channels=_base_.fpn_channels, num_outs=5),
    roi_head=dict(
        type='mmswinv2.HybridTaskCascadeRoIHead',
        interleaved=True,
        mask_info_flow=True,
        bbox_head=[dict(head, reg_class_agnostic=True) for head in _base_.model.roi_head.bbox_head],
        mask_head=[
            dict(
                type='HTCMaskHead',
                with_conv_res=with_conv_res,  # the first stage has no mask features of an earlier one
                num_convs=4,
                in_channels=_base_.fpn_channels,
                conv_out_channels=_base_.fpn_channels,
                loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0))
            for with_conv_res in (False, True, True)
        ]),
    test_cfg=dict(rcnn=dict(score_thr=0.001, nms=dict(type='soft_nms', iou_threshold=0.5))))
