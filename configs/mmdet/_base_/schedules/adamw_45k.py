# AdamW 6e-4, batch 96, 45,000 iterations, 36.5 epochs of COCO (arXiv:2111.09883, appendix A2, SwinV2-G). Not stated
# there and our choice: steps at the same fractions as in 3x, a warm-up of 1000 iterations, the backbone's factor of 0.1
# (stated for B and L), no layer-wise decay, gradients clipped at a norm of 1, as in the authors' dense code (AiT on
# COCO): nobody trained 3B parameters here, and a step that goes astray costs days.
_base_ = '../../../_base_/schedules/adamw.py'

max_iters = 45000
warm_up = 1000
train_cfg = dict(type='mmswinv2.IterBasedTrainLoop', max_iters=max_iters, val_interval=2500)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=warm_up),
    dict(
        type='MultiStepLR',
        begin=0,
        end=max_iters,
        by_epoch=False,
        milestones=[max_iters * 27 // 36, max_iters * 33 // 36],
        gamma=0.1)
]
optim_wrapper = dict(
    paramwise_cfg=dict(backbone_lr_mult=0.1, layer_decay_rate=1.0),
    # fused: without another copy of the parameters, 12 GiB of SwinV2-G's, during the step
    optimizer=dict(lr=6e-4, fused=True),
    clip_grad=dict(max_norm=1.0))
auto_scale_lr = dict(enable=False, base_batch_size=96)
# For a leaf, which has default_runtime.py too: a checkpoint every 250 iterations, 3,000 forward passes of a node of 8
# GPUs
hooks_by_iteration = dict(checkpoint=dict(by_epoch=False, interval=250), logger=dict(log_metric_by_epoch=False))
