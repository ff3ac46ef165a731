# What this plugin adds to any recipe, a host's own too, which then has default_hooks = _base_.plugin_hooks. This is the
# one place of custom_imports: mmengine refuses it in two bases. mmswinv2 registers names only; mmswinv2.engine.setup
# repairs what MMEngine and the hosts cannot do.
custom_imports = dict(imports=['mmswinv2', 'mmswinv2.engine.setup'], allow_failed_imports=False)
# checks the whole config before the model is made, then is mmengine's Runner, or its FlexibleRunner for a strategy
runner_type = 'mmswinv2.Runner'
plugin_hooks = dict(
    checkpoint=dict(type='mmswinv2.CheckpointHook', max_keep_ckpts=2),
    convert_checkpoint=dict(type='mmswinv2.ConvertCheckpointHook'),
    non_finite=dict(type='mmswinv2.NonFiniteHook'),
    batch_size=dict(type='mmswinv2.BatchSizeHook'),
    check_classes=dict(type='mmswinv2.CheckClassesHook'))
