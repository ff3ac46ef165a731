# The one place of custom_imports for mmaction2: mmengine refuses it in two bases.
# mmswinv2.engine.setup repairs what MMEngine and mmaction2 cannot do; mmswinv2 itself registers names only.
custom_imports = dict(imports=['mmswinv2', 'mmswinv2.engine.setup'], allow_failed_imports=False)
default_scope = 'mmaction'

default_hooks = dict(
    runtime_info=dict(type='RuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100, ignore_last=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='mmswinv2.CheckpointHook', interval=1, max_keep_ckpts=2, save_best='acc/top1'),
    convert_checkpoint=dict(type='mmswinv2.ConvertCheckpointHook'),
    non_finite=dict(type='mmswinv2.NonFiniteHook'),
    batch_size=dict(type='mmswinv2.BatchSizeHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    sync_buffers=dict(type='SyncBuffersHook'))
# timeout: seconds that a process waits for another, which may be validating; torch's 10 minutes for NCCL are too short
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl', timeout=7200))
# gradients are views of the buckets that are reduced: without that they are kept twice, 12.1 GiB of SwinV2-G's
model_wrapper_cfg = dict(
    type='MMDistributedDataParallel', broadcast_buffers=False, gradient_as_bucket_view=True)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='ActionVisualizer', vis_backends=vis_backends)
log_level = 'INFO'
load_from = None
resume = False
