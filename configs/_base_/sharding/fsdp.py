# Fully sharded data parallelism: weights, gradients and the optimizer's states are divided among the GPUs, gathered
# block by block (arXiv:2304.11277). The recipes of H and G have it; add it to the `_base_` of any other, and start with
# --launcher pytorch. With one process it does nothing. A checkpoint is one whole file, as without. Needs torch 2.6.
# mmswinv2.Runner reads it (default_runtime.py); a config without that adds runner_type = 'mmswinv2.Runner'.
strategy = dict(type='mmswinv2.FSDPStrategy')
