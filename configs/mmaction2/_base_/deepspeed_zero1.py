# DeepSpeed's ZeRO stage 1: the states of the optimizer divided among the GPUs. Add it to the _base_ of any config
# (needs pip install deepspeed; mim train mmaction2 CONFIG --launcher pytorch --gpus N). docs/sharding-deepspeed.md
runner_type = 'FlexibleRunner'
strategy = dict(type='mmswinv2.DeepSpeedStrategy', zero_optimization=dict(stage=1))
