# UperNet with SwinV2-G on ADE20K at 640 px, window 40, the last stage at half of it, as in pre-training.
# To train: _zero1, as in the paper.
_base_ = [
    './_base_/models/upernet_swinv2.py', './_base_/datasets/ade20k_640.py', './_base_/schedules/adamw_80k.py',
    './_base_/default_runtime.py'
]

# The weights of SwinV2-G were never released: name your own with
# --cfg-options model.backbone.init_cfg.checkpoint=FILE
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(
        arch='g',
        window_size=[40, 40, 40, 20],
        pretrained_window_sizes=[12, 12, 12, 6],
        drop_path_rate=0.4,
        with_cp=True,
        init_cfg=dict(type='Pretrained', checkpoint=None)),
    decode_head=dict(in_channels=[512, 1024, 2048, 4096]),
    auxiliary_head=dict(in_channels=2048))
train_dataloader = dict(batch_size=4)  # on 8 GPUs: 32
