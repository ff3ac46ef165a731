# ZeRO stage 1: the optimizer's states are divided among the GPUs (arXiv:2111.09883, section 3.5; arXiv:1910.02054);
# weights and gradients stay whole. Used as fsdp.py is, in its place: --cfg-options strategy.type=mmswinv2.ZeroStrategy
# is the same for a recipe that has fsdp.py.
strategy = dict(type='mmswinv2.ZeroStrategy')
