# swinv2_l_384-w24_22kto1k.py tested on ImageNet-V2, matched frequency (arXiv:1902.10811): the archive's folders 0 to
# 999. 78.31 top-1 in the paper's Table 2, which does not name the variant; it has the numbers of timm's
# matched-frequency table.
_base_ = './swinv2_l_384-w24_22kto1k.py'

data_root = 'data/imagenetv2/imagenetv2-matched-frequency-format-val'
test_dataloader = dict(dataset=dict(
    _delete_=True, type='mmswinv2.ImageNetV2', data_root=data_root, pipeline=_base_.test_pipeline))
