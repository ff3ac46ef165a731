# Kinetics-400, laid out as mmaction2's tools/data/kinetics has it: videos, and lists of `NAME LABEL`. Loaders and
# metric; clips and sizes are in the fragments beside it.
data_root = 'data/kinetics400'
init = dict(type='DecordInit', io_backend='disk')
decode = dict(type='DecordDecode')
pack = [dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]
train_dataloader = dict(
    batch_size=8,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmswinv2.VideoFiles',
        ann_file=f'{data_root}/kinetics400_train_list_videos.txt',
        data_prefix=dict(video=f'{data_root}/videos_train')))
val_dataloader = dict(
    batch_size=8,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmswinv2.VideoFiles',
        ann_file=f'{data_root}/kinetics400_val_list_videos.txt',
        data_prefix=dict(video=f'{data_root}/videos_val'),
        test_mode=True))
test_dataloader = dict(
    batch_size=1,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmswinv2.VideoFiles',
        ann_file=f'{data_root}/kinetics400_val_list_videos.txt',
        data_prefix=dict(video=f'{data_root}/videos_val'),
        test_mode=True))
val_evaluator = dict(type='AccMetric')
test_evaluator = val_evaluator
