# swinv2_g_640-w40.py tested on ImageNet-V2, matched frequency (arXiv:1902.10811): the archive's folders 0 to 999.
# 84.00 top-1 in the paper's Table 2, which does not name the variant; it has the numbers of timm's matched-frequency
# table.
_base_ = './swinv2_g_640-w40.py'

data_root = 'data/imagenetv2/imagenetv2-matched-frequency-format-val'
test_dataloader = dict(dataset=dict(
    _delete_=True, type='mmswinv2.ImageNetV2', data_root=data_root, pipeline=_base_.test_pipeline))
