# Fully sharded data parallelism: weights, gradients and the optimizer's states are divided among the GPUs, gathered
# block by block (arXiv:2304.11277). Add it to the `_base_` of any config here, and start with --launcher pytorch.
# A checkpoint is one whole file, as without; `mim test` reads it on one GPU. Needs torch 2.6.
runner_type = 'FlexibleRunner'
strategy = dict(type='mmswinv2.FSDPStrategy')
