_base_ = '../../_base_/default_runtime.py'

default_scope = 'mmaction'
default_hooks = dict(
    runtime_info=dict(type='RuntimeInfoHook'),
    logger=dict(interval=100, ignore_last=False),
    checkpoint=dict(save_best='acc/top1'),
    sync_buffers=dict(type='SyncBuffersHook'))
visualizer = dict(type='ActionVisualizer', vis_backends=_base_.vis_backends)
