# The same with the parameterised position bias, whose table is resized bicubically for another window.
_base_ = './swinv2_mini.py'

model = dict(backbone=dict(position_bias='parameterized'))
