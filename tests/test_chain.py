"""Weights that nobody released have a way: SimMIM, then labels, then detector and segmentor, by ``init_cfg`` alone."""
import numpy as np
import pytest
from PIL import Image

from helpers import runs
from helpers.runs import ROOT

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg, pytest.mark.mmpretrain, pytest.mark.slow]

DENSE = """
model = dict(backbone=dict(window_size=[8, 8, 8, 4], pretrained_window_sizes=[4, 4, 4, 2],
                           init_cfg=dict(_delete_=True, type='Pretrained', checkpoint=None)))
"""
ARCH = "dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8])"
SIZES = f"""
image_size = 64
backbone = dict(arch={ARCH}, window_size=[4, 4, 4, 2], pretrained_window_sizes=[4, 4, 4, 2], drop_path_rate=0.)
train_dataloader = dict(batch_size=2, dataset=dict(data_root='DATA'))
train_cfg = dict(max_iters=2)
default_hooks = dict(checkpoint=dict(interval=1))
"""
SIMMIM = SIZES + """
model = dict(backbone=dict(backbone, out_indices=(3, )), neck=dict(in_channels=128, encoder_stride=32))
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64)),
    dict(type='SimMIMMaskGenerator', input_size=64, mask_patch_size=16, model_patch_size=4, mask_ratio=0.6),
    dict(type='PackInputs')
]
train_dataloader['dataset']['pipeline'] = train_pipeline
"""
LABELS = SIZES + """
model = dict(backbone=dict(backbone, out_indices=(3, )), head=dict(in_channels=128))
train_dataloader['dataset'].update(indices=[0, 1, 2, 3], pipeline=[
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64)), dict(type='PackInputs')])
"""


def test_from_images_without_labels_to_a_detector_and_a_segmentor(tmp_path, mini_data):
    images = tmp_path / 'images'
    for split in 'train', 'val':
        for kind in range(10):
            (images / split / str(kind)).mkdir(parents=True)
            Image.fromarray(np.random.default_rng(kind).integers(0, 255, (64, 64, 3), np.uint8)).save(
                images / split / str(kind) / 'a.png')
    before = None
    for host, base, text in (('mmpretrain', 'simmim_swinv2_mini', SIMMIM), ('mmpretrain', 'swinv2_simmim_mini', LABELS),
                             ('mmdet', 'htc_swinv2_mini', None), ('mmseg', 'upernet_swinv2_mini', None)):
        if text is None:
            config = runs.write_config(tmp_path, host, iters=1, interval=1, more=DENSE)
        else:
            config = tmp_path / f'{base}.py'
            config.write_text(f"_base_ = '{ROOT}/configs/{host}/{base}.py'\n{text.replace('DATA', str(images))}")
        options = [] if before is None else ['--cfg-options', f'model.backbone.init_cfg.checkpoint={before}']
        data = mini_data(host) if host in runs.SMALL else tmp_path
        step = runs.step(host, config, tmp_path / base, *options)
        codes, (output, ) = runs.train_in_turn(tmp_path, [step], data=data)
        assert codes == [[0]], output[-6000:]
        if before is not None:
            assert f'from {before}' in output
        if text is not None:
            before = next((tmp_path / base).glob('iter_2.pth'))
