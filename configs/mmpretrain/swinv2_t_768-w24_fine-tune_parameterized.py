# The same with parameterized (83.2 top-1 in the paper); no weights were released: name them with --cfg-options
# load_from=FILE
_base_ = './swinv2_t_768-w24_fine-tune_log-cpb.py'

model = dict(backbone=dict(position_bias='parameterized'))
load_from = None
