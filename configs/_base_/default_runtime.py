# What all recipes of this project share.
_base_ = './plugin.py'

default_hooks = dict(
    _base_.plugin_hooks,
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(_base_.plugin_hooks.checkpoint, interval=1),
    sampler_seed=dict(type='DistSamplerSeedHook'))
# timeout: seconds that a process waits for another, which may be validating; torch's 10 minutes for NCCL are too short
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl', timeout=7200))
# gradients are views of the buckets that are reduced: without that they are kept twice, 12.1 GiB of SwinV2-G's
model_wrapper_cfg = dict(
    type='MMDistributedDataParallel', broadcast_buffers=False, gradient_as_bucket_view=True)
vis_backends = [dict(type='LocalVisBackend')]
log_level = 'INFO'
load_from = None
resume = False
