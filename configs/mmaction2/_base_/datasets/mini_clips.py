# The small data set of demos/make_mini_clips.py: clips of 24 frames of 32 px, of which 8 are taken, every second.
# Frames are mirrored top to bottom only: left is not right. Decoded by OpenCV, which is on every machine.
data_root = '{{$MMSWINV2_MINI_CLIPS:data/mini_clips/}}'
image_size = 32
clip_len = 8
init = dict(type='OpenCVInit')
sample = dict(type='SampleFrames', clip_len=clip_len, frame_interval=2, num_clips=1)
decode = dict(type='OpenCVDecode')
resize = dict(type='Resize', scale=(image_size, image_size), keep_ratio=False)  # also a copy, which Flip needs
flip = dict(type='Flip', flip_ratio=0.5, direction='vertical')
pack = [dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]
train_pipeline = [init, sample, decode, resize, flip, *pack]
test_pipeline = [init, dict(sample, test_mode=True), decode, *pack]
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='mmswinv2.VideoFiles',
        ann_file=f'{data_root}train.txt',
        data_prefix=dict(video=f'{data_root}train'),
        pipeline=train_pipeline))
test_dataloader = dict(
    batch_size=10,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmswinv2.VideoFiles',
        ann_file=f'{data_root}val.txt',
        data_prefix=dict(video=f'{data_root}val'),
        pipeline=test_pipeline,
        test_mode=True))
test_evaluator = dict(type='AccMetric')
