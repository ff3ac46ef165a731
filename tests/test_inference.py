"""The inference APIs of mmdet and mmseg take the configs: images as arrays, no data set, no labels."""
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint

from helpers.configs import CONFIGS
from helpers.interpreter import run_python
from mmswinv2.engine import CheckpointHook

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg]

IMAGE = np.random.default_rng(0).integers(0, 255, (97, 131, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def scope():
    """The APIs set a default scope and leave it so."""
    with DefaultScope.overwrite_default_scope('mmengine'):
        yield


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('inference')


def test_mmdet(folder):
    from mmdet.apis import DetInferencer, inference_detector, init_detector
    config = str(CONFIGS / 'mmdet/htc_swinv2_mini.py')
    model = init_detector(config, None, device='cpu', palette='random')
    found = inference_detector(model, IMAGE).pred_instances
    assert found.masks.shape == (len(found), *IMAGE.shape[:2]) and found.scores.isfinite().all()
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=model.dataset_meta),
                    message_hub=dict(loss=HistoryBuffer([1.], [1]))), folder / 'det.pth')  # as a run writes it
    again, = DetInferencer(config, str(folder / 'det.pth'), device='cpu', palette='random')(
        [IMAGE], return_datasamples=True, no_save_vis=True)['predictions']
    assert torch.equal(again.pred_instances.scores, found.scores)


def test_mmdet_with_a_file_alone(folder):
    """The config is in the file, and nothing has imported this package when it is read."""
    from mmdet.registry import MODELS
    config = Config.fromfile(CONFIGS / 'mmdet/htc_swinv2_mini.py')
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(config.model)
    model.backbone.norm0.bias.data[:8] = 1
    checkpoint = dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=('a',), palette=[(1, 2, 3)])),
                      message_hub=dict(log_scalars=dict(loss=HistoryBuffer([1.], [1])), resumed_keys={},
                                       runtime_info=dict(cfg=config.pretty_text, score=np.float64(1))))
    CheckpointHook(by_epoch=False).before_save_checkpoint(None, checkpoint)
    torch.save(checkpoint, folder / 'iter_2.pth')
    result = run_python('import mmswinv2.engine.repairs as r; r.leave_out_multimodal_models()\n'
                        'from mmdet.apis import DetInferencer\n'
                        f'found = DetInferencer(weights={str(folder / "iter_2.pth")!r}, device="cpu")\n'
                        'print(found.model.backbone.norm0.bias.sum().item())')
    assert result.returncode == 0, result.stderr
    assert float(result.stdout.split()[-1]) == model.backbone.norm0.bias.sum().item() == 8


def test_a_file_of_a_backbone_alone_is_not_ignored(folder):
    """The host would log missing and unexpected names, and go on with random weights."""
    from mmdet.apis import init_detector
    config = str(CONFIGS / 'mmdet/htc_swinv2_mini.py')
    model = init_detector(config, None, device='cpu', palette='random')
    torch.save({k: v + 1 for k, v in model.backbone.state_dict().items() if k != 'pretrained_window_sizes'},
               folder / 'backbone.pth')
    with pytest.raises(ValueError, match=r"weights under 'backbone.', got none.*load_checkpoint\(model.backbone, FILE"):
        init_detector(config, str(folder / 'backbone.pth'), device='cpu', palette='random')
    load_checkpoint(model.backbone, str(folder / 'backbone.pth'))
    assert torch.equal(model.backbone.norm0.bias, torch.ones_like(model.backbone.norm0.bias))


def test_mmseg(folder):
    from mmseg.apis import MMSegInferencer, inference_model, init_model
    config = str(CONFIGS / 'mmseg/upernet_swinv2_mini.py')
    model = init_model(config, None, device='cpu')
    found = inference_model(model, IMAGE).pred_sem_seg.data
    assert found.shape == (1, *IMAGE.shape[:2])
    torch.save(dict(state_dict=model.state_dict(), meta={}), folder / 'seg.pth')
    again = MMSegInferencer(config, str(folder / 'seg.pth'), device='cpu')([IMAGE], return_datasamples=True)
    assert torch.equal(again.pred_sem_seg.data, found)
