# UperNet with SwinV2-L, tested by sliding crops of the training size, a third of which overlap: our choice, for the
# paper does not say how it tests.
_base_ = './upernet_swinv2_l.py'

model = dict(test_cfg=dict(mode='slide', crop_size=(640, 640), stride=(426, 426)))
