# ZeRO stage 1: the optimizer's states are divided among the GPUs (arXiv:2111.09883, section 3.5; arXiv:1910.02054).
# Add it to the `_base_` of any config here, and start with --launcher pytorch. Weights and gradients stay whole.
runner_type = 'FlexibleRunner'
strategy = dict(type='mmswinv2.ZeroStrategy')
