# UperNet with a small SwinV2 for a trial of docs/own_data.md without a GPU: what upernet_swinv2_t_own-data.py is, with
# the model of the demo, random weights and crops of 128 px.
_base_ = ['./upernet_swinv2_mini.py']

own = dict(type='mmswinv2.MaskImages', data_root=None, data_prefix=dict(img_path='', seg_map_path=''))
train_dataloader = dict(dataset=own)
val_dataloader = dict(_base_.test_dataloader, dataset=dict(_base_.test_dataloader.dataset, **own))
test_dataloader = dict(dataset=own)
val_evaluator = _base_.test_evaluator
max_iters = 150
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_iters)]
auto_scale_lr = dict(enable=False, base_batch_size=4)
default_hooks = dict(checkpoint=dict(save_best=None))
