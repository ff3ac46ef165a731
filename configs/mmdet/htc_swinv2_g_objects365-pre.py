# HTC++ with SwinV2-G on COCO, from the stage on Objects365 (htc_swinv2_g_objects365.py), as in the paper. Loaded are
# the box heads without their class layers, and everything below them. The mask branch starts from random weights.
_base_ = './htc_swinv2_g.py'

model = dict(backbone=dict(init_cfg=None))  # load_from has its weights
load_from = 'work_dirs/htc_swinv2_g_objects365/iter_67500.pth'
weights_from = [('configs/mmdet/htc_swinv2_g_objects365.py', load_from)]
