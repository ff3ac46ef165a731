# UperNet with SwinV2-G on ADE20K at 640 px, window 40, the last stage at half of it, as in pre-training.
# To train, name its weights: --cfg-options model.backbone.init_cfg.checkpoint=FILE
_base_ = [
    '../_base_/backbones/swinv2_g.py', './_base_/models/upernet_swinv2.py', './_base_/datasets/ade20k_640.py',
    './_base_/schedules/adamw_80k.py', './_base_/default_runtime.py',
    '../_base_/sharding/fsdp.py'
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(
        window_size=_base_.window_40, with_cp=True, autocast_dtype='bfloat16', drop_path_rate=0.4, **_base_.swinv2),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]))
train_dataloader = dict(batch_size=4)  # on 8 GPUs: 32
