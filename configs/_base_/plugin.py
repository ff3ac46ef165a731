# What this plugin adds to any recipe. One on a recipe of the host's own says default_hooks = _base_.plugin_hooks and
# env_cfg = _base_.plugin_env_cfg. This is the one place of custom_imports: mmengine refuses it in two bases. mmswinv2
# registers names only; mmswinv2.engine.setup repairs what MMEngine and the hosts cannot do.
custom_imports = dict(imports=['mmswinv2', 'mmswinv2.engine.setup'], allow_failed_imports=False)
# checks the whole config before the model is made, then is mmengine's Runner, or its FlexibleRunner for a strategy
runner_type = 'mmswinv2.Runner'
plugin_hooks = dict(
    checkpoint=dict(type='mmswinv2.CheckpointHook', max_keep_ckpts=2),
    convert_checkpoint=dict(type='mmswinv2.ConvertCheckpointHook'),
    non_finite=dict(type='mmswinv2.NonFiniteHook'),
    batch_size=dict(type='mmswinv2.BatchSizeHook'),
    check_classes=dict(type='mmswinv2.CheckClassesHook'))
# seconds that a process waits for another, which may be validating; torch's 10 minutes for NCCL are too short
plugin_env_cfg = dict(dist_cfg=dict(timeout=7200))
# gradients are views of the buckets that are reduced: without that they are kept twice, 12.1 GiB of SwinV2-G's
model_wrapper_cfg = dict(
    type='MMDistributedDataParallel', broadcast_buffers=False, gradient_as_bucket_view=True)
