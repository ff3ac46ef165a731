# HTC++ with SwinV2-G, the states of the optimizer divided among the GPUs (ZeRO stage 1, as in the paper, section 3.5):
# mim train mmdet ... --launcher pytorch --gpus 8
_base_ = './htc_swinv2_g_amp-bf16.py'

optim_wrapper = dict(
    optimizer=dict(
        _delete_=True,
        type='ZeroRedundancyOptimizer',
        optimizer_type='AdamW',
        lr=6e-4,
        betas=(0.9, 0.999),
        weight_decay=0.05))
