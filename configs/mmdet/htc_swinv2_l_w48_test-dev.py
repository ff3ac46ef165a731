# SwinV2-L with windows of 48 on COCO test-dev, which has no public annotations: `mim test ... [--tta]` writes
# work_dirs/htc_swinv2_l_test-dev.bbox.json and .segm.json for the evaluation server.
_base_ = './htc_swinv2_l.py'

model = dict(backbone=dict(window_size=_base_.window_48))
ann_file = 'annotations/image_info_test-dev2017.json'
test_dataloader = dict(dataset=dict(ann_file=ann_file, data_prefix=dict(img='test2017/')))
test_evaluator = dict(
    ann_file='data/coco/' + ann_file, format_only=True, outfile_prefix='work_dirs/htc_swinv2_l_test-dev')
