# The same with linear_cpb (83.3 top-1 in the paper); no weights were released: name them with --cfg-options
# load_from=FILE
_base_ = './swinv2_t_512-w16_fine-tune_log-cpb.py'

model = dict(backbone=dict(position_bias='linear_cpb'))
load_from = None
