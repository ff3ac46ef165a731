"""mmseg: every config with reduced widths, test-time augmentation against mmseg's, labels, sliding inference."""
import copy
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.models.segmentors.seg_tta import SegTTAModel
from mmseg.registry import MODELS, TRANSFORMS
from mmseg.structures import SegDataSample
from PIL import Image

from helpers.configs import CONFIGS, LEAVES, build, load
from helpers.docs import tokens
from mmswinv2.engine.repairs import draw_images_of_any_layout
from mmswinv2.segmentation import StreamingSegTTAModel
from mmswinv2.segmentation import tta as tta_module

pytestmark = pytest.mark.mmseg

RECIPES = [name for name in LEAVES if name.startswith('mmseg/upernet') and 'mini' not in name]


def small_model(cfg, seed=0):
    """The same types with few channels and blocks; windows stay."""
    cfg.model.backbone.update(arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8]), init_cfg=None)
    cfg.model.decode_head.update(in_channels=[8, 16, 32, 64], channels=16)
    if cfg.model.get('auxiliary_head'):
        cfg.model.auxiliary_head.update(in_channels=32, channels=16)
    cfg.model.data_preprocessor.size = (64, 96)
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return revert_sync_batchnorm(MODELS.build(cfg.model))


def sample(labels=None, **meta):
    result = SegDataSample(metainfo=dict(dict(ori_shape=(64, 96), img_shape=(64, 96), img_path='a.jpg'), **meta))
    if labels is not None:
        result.gt_sem_seg = PixelData(data=labels)
    return result


def batch(*labels):
    images = [torch.randint(0, 255, (3, *seg.shape[-2:]), dtype=torch.uint8) for seg in labels]
    return dict(inputs=images, data_samples=[sample(seg) for seg in labels])


def loss_of(model, data):
    data = model.data_preprocessor(data, True)
    total, logged = model.parse_losses(model.loss(data['inputs'], data['data_samples']))
    assert all(v.isfinite().all() for v in logged.values()), logged
    return total, logged


@pytest.mark.parametrize('name', RECIPES)
def test_builds_at_full_size(name):
    cfg = load(name)
    model = build(cfg)
    assert model.num_classes == 150
    assert list(model.decode_head.in_channels) == list(model.backbone.arch.dims)
    windows = cfg.model.backbone.window_size
    assert len(set(windows[:3])) == 1
    # the last stage has half the window where it had in pre-training
    assert windows[0] // windows[3] == (1 if cfg.model.backbone.pretrained_window_sizes == [8] * 4 else 2)
    assert cfg.model.data_preprocessor['size'] == cfg.crop_size
    assert all(stage.with_cp for stage in model.backbone.layers) or not ('1536' in name or '_g' in name)
    # labels are checked at test, too: mmseg's IoUMetric leaves wrong ones out without a word
    for pipeline in (cfg.train_dataloader.dataset.pipeline, cfg.val_dataloader.dataset.pipeline,
                     cfg.test_dataloader.dataset.pipeline, [step for step, in cfg.tta_pipeline[1].transforms[2:]]):
        types = [step['type'] for step in pipeline]
        assert types[types.index('LoadAnnotations') + 1] == 'mmswinv2.CheckLabels'


@pytest.mark.parametrize('name', RECIPES)
def test_one_training_and_one_test_step(name):
    cfg = load(name)
    factor, decay = (cfg.optim_wrapper.paramwise_cfg[key] for key in ('backbone_lr_mult', 'layer_decay_rate'))
    lr = cfg.optim_wrapper.optimizer.lr
    model = small_model(cfg).train()
    with DefaultScope.overwrite_default_scope('mmseg'):
        optim = build_optim_wrapper(model, cfg.optim_wrapper)
    rates = {round(g['lr'] / lr, 6) for g in optim.optimizer.param_groups}
    # stages of one block and a merging each, the last without: 7 layers, the embedding and what is outside
    assert rates == {1.} | {round(factor * decay**n, 6) for n in range(9)}
    total, logged = loss_of(model, batch(*torch.randint(0, 150, (2, 1, 64, 96))))
    assert {'decode.loss_ce', 'aux.loss_ce'} <= set(logged)
    total.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    optim.step()
    with torch.no_grad():
        result, = model.eval().test_step(batch(torch.zeros(1, 64, 96, dtype=torch.int64)))
    assert result.pred_sem_seg.data.shape == (1, 64, 96)
    assert result.seg_logits.data.isfinite().all()


def test_the_papers_settings():
    rows = dict(l=(6e-5, 40000, 375, 64, .3, 40), g=(4e-5, 80000, 750, 32, .4, 40))
    for size, (lr, iters, warm_up, batch_size, drop, window) in rows.items():
        cfg = load(f'mmseg/upernet_swinv2_{size}.py')
        assert (cfg.optim_wrapper.optimizer.lr, cfg.train_cfg.max_iters, cfg.param_scheduler[0].end,
                cfg.auto_scale_lr.base_batch_size, cfg.model.backbone.drop_path_rate,
                cfg.model.backbone.window_size[0]) == (lr, iters, warm_up, batch_size, drop, window)
        assert cfg.param_scheduler[1].type == 'PolyLR' and cfg.param_scheduler[1].power == 1
        assert cfg.test_pipeline[1].scale == (2560, 640)
    large = load('mmseg/upernet_swinv2_g_896-w56.py')
    assert large.test_dataloader.dataset.pipeline[1].scale == (3584, 896)
    assert large.model.backbone.window_size == [56, 56, 56, 28]
    for window in (16, 20, 32):
        for kind in ('log_cpb', 'linear_cpb', 'parameterized'):
            cfg = load(f'mmseg/upernet_swinv2_t_512-w{window}.py')
            cfg.merge_from_dict({'model.backbone.position_bias': kind})
            net = build(cfg).backbone
            assert net.config.position_bias == kind and net.window_sizes[0] == (window, window)
            assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == .95
    scales = [t['scale'] for t in load('mmseg/upernet_swinv2_l.py').tta_pipeline[1].transforms[0]]
    assert scales == [(int(2560 * r), int(640 * r)) for r in (.5, .75, 1., 1.25, 1.5, 1.75)]


def test_windows_of_table_4_load_one_checkpoint(rng):
    trained, other = (lively(load(f'mmseg/upernet_swinv2_g{suffix}.py')) for suffix in ('', '_896-w56'))
    assert trained.backbone.window_sizes == ((40, 40),) * 3 + ((20, 20),)
    assert other.backbone.window_sizes == ((56, 56),) * 3 + ((28, 28),)
    assert other.backbone.pretrained_window_sizes == trained.backbone.pretrained_window_sizes == (
        (12, 12),) * 3 + ((6, 6),)
    other.load_state_dict(trained.state_dict())
    x = torch.randn(1, 3, 224, 260, generator=rng)  # 56 x 65 tokens
    with torch.no_grad():
        a, b = trained(x), other(x)
    assert a.shape == b.shape == (1, 150, 56, 65) and b.isfinite().all()
    assert (a - b).abs().max() > 1e-3 * a.abs().max()


@pytest.mark.parametrize('labels', ['ignored', 'one class', 'one class and ignored'])
def test_any_labels_train(labels):
    """All ignored: the loss is finite, and no gradient is NaN."""
    model = small_model(load('mmseg/upernet_swinv2_t.py')).train()
    seg = torch.full((2, 1, 64, 96), 255 if 'ignored' in labels else 7)
    if labels == 'one class and ignored':
        seg[0] = 7
    total, _ = loss_of(model, batch(*seg))
    total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    if labels == 'ignored':
        assert total == 0


def check(labels, num_classes=150, path='x.png', **kwargs):
    transform = TRANSFORMS.build(dict(type='mmswinv2.CheckLabels', num_classes=num_classes, **kwargs))
    return transform(dict(gt_seg_map=labels, seg_map_path=path, reduce_zero_label=True))['gt_seg_map']


@pytest.mark.parametrize('labels, options, message', [
    (np.uint8([[150, 254], [0, 255]]), {}, r'labels of x.png must be 0 to 149 or 255 \(ignored\).*got \[150, 254\]'),
    (np.uint8([[0, 149], [255, 3]]), dict(ignore_index=0), r'got \[255\]'),
    (np.array([[-1, 3]]), {}, r'got \[-1\]'),
    (np.zeros((4, 5, 3), np.uint8), {}, r'labels of x.png must have one value per pixel, got .*\(4, 5, 3\)'),
    (np.array([[1.5, 2], [0, 0]]), {}, r'labels of x.png must be 0 to 149 or 255 .*got \[1.5\]'),
    (np.array([[np.nan, np.nan]]), {}, r'got \[nan\]'),
    (np.array([[np.inf, -1.]], dtype=np.float32), {}, r'got \[-1.0, inf\]'),
    (None, {}, 'labels of x.png must be an array of numbers, got None'),
    ([[1, 2]], {}, r'must be an array of numbers, got \[\[1, 2\]\]'),
    (np.array([['a']]), {}, 'must be an array of numbers, got an array of <U1'),
    (np.array([[None]]), {}, 'must be an array of numbers, got an array of object'),
    *(([[1]], dict(num_classes=value), f'num_classes must be an integer >= 1, got {value!r}')
      for value in ('3', 1.5, True, 0, None)),
    ([[1]], dict(num_classes=np.int64(3), ignore_index='255'), "ignore_index must be an integer, got '255'")])
def test_wrong_labels_are_an_error_that_names_the_file(labels, options, message):
    with pytest.raises(ValueError, match=message):
        check(labels, **options)


@pytest.mark.parametrize('dtype', [np.float32, np.float64, np.int64, np.uint16, np.uint8, bool])
def test_whole_numbers_are_labels_in_any_dtype(dtype):
    for labels in np.array([[0, 1, 1]], dtype=dtype), np.zeros((0, 4), dtype=dtype):
        assert check(labels) is labels
    labels = np.uint8([[0, 149], [255, 3]])
    assert check(labels) is labels


def load_labels(path, backend='pillow', **info):
    """A file of labels as mmseg loads it, checked."""
    results = dict(dict(seg_map_path=str(path), seg_fields=[], reduce_zero_label=False, label_map=None), **info)
    for step in (dict(type='mmseg.LoadAnnotations', imdecode_backend=backend),
                 dict(type='mmswinv2.CheckLabels', num_classes=150)):
        results = TRANSFORMS.build(step)(results)
    return results['gt_seg_map']


@pytest.mark.parametrize('info', [{}, dict(reduce_zero_label=True), dict(label_map={7: 149, 149: 7})])
@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
@pytest.mark.parametrize('suffix, dtype, value', [
    ('png', np.uint16, 256), ('tif', np.uint16, 65535), ('jp2', np.uint16, 512), ('tif', np.int32, 300),
    ('tif', np.int32, -1), ('tif', np.float32, 1.5), ('tif', np.float32, np.nan)])
def test_labels_that_8_bits_do_not_hold_are_an_error(suffix, dtype, value, backend, info, tmp_path):
    """mmseg takes them modulo 256. Those that fit are read right, however they are stored."""
    labels, path = np.array([[0, 7], [149, 255]]), tmp_path / f'a.{suffix}'
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / 'b.png')
    Image.fromarray(labels.astype(dtype)).save(path)
    np.testing.assert_array_equal(load_labels(path, backend, **info), load_labels(tmp_path / 'b.png', **info))
    stored = labels.astype(dtype)
    stored[0, 1] = value
    Image.fromarray(stored).save(path)
    with pytest.raises(ValueError, match=rf'labels of .*a.{suffix} must be stored as whole numbers from 0 to 255 in 8 '
                                         rf'bits, got \[{value}\], read modulo 256'):
        load_labels(path, backend, **info)


def test_another_loader_than_mmsegs_may_make_labels_of_any_file(tmp_path):
    ids, path = np.array([[0, 7001], [149002, 600]], np.int32), str(tmp_path / 'a.tif')
    Image.fromarray(ids).save(path)
    for labels in ((ids // 1000).astype(np.uint8), ids.clip(max=600)):
        assert check(labels, num_classes=601, path=path) is labels


def write_grey(path, rows, bits):
    """A grey PNG of a few bits, of 8 pixels a row."""
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    packed = b''.join(b'\0' + sum(v << bits * (7 - i) for i, v in enumerate(row)).to_bytes(bits, 'big') for row in rows)
    header = struct.pack('>IIBBBBB', 8, len(rows), bits, 0, 0, 0, 0)
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(packed)) +
                     chunk(b'IEND', b''))


def test_mmsegs_visualizer_draws_on_an_image_of_any_layout():
    """mmseg's browse_dataset gives it one with the channels first in memory."""
    from mmseg.visualization import SegLocalVisualizer
    draw_images_of_any_layout()
    draw = SegLocalVisualizer._draw_sem_seg
    draw_images_of_any_layout()
    assert SegLocalVisualizer._draw_sem_seg is draw
    visualizer = SegLocalVisualizer(classes=['a', 'b'], palette=[[1, 2, 3], [4, 5, 6]])
    image = np.random.default_rng(0).integers(256, size=(3, 40, 50), dtype=np.uint8).transpose(1, 2, 0)
    labels = PixelData(data=np.eye(40, 50, dtype=np.int64)[None])
    drawn = [visualizer._draw_sem_seg(each, labels, ['a', 'b'], [[1, 2, 3], [4, 5, 6]])
             for each in (image, np.ascontiguousarray(image))]
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize('bits', [2, 4])
def test_grey_labels_of_2_and_4_bits_are_an_error(bits, tmp_path):
    """Readers scale them to 255, and leave only 0 and the largest right."""
    path, last = tmp_path / 'a.png', 2**bits - 1
    write_grey(path, [[0, last] * 4] * 2, bits)
    assert load_labels(path).tolist() == [[0, 255] * 4] * 2
    write_grey(path, [[0, 1, last - 1, last] * 2] * 2, bits)
    scale = 255 // last
    with pytest.raises(ValueError, match=rf'a.png must be .* got \[{scale}, {255 - scale}\], {scale} times what is'):
        load_labels(path)


@pytest.mark.parametrize('mode', ['1', 'L', 'P'])
def test_labels_of_one_byte_are_read(mode, tmp_path):
    labels = np.eye(6, dtype=np.uint8)
    image = Image.fromarray(labels.astype(bool) if mode == '1' else labels)
    if mode == 'P':
        image = Image.frombytes('P', image.size, labels.tobytes())
        image.putpalette(range(256))
    image.save(tmp_path / 'a.png')
    np.testing.assert_array_equal(load_labels(tmp_path / 'a.png'), labels)


def test_labels_that_are_not_there_pass_and_those_not_loaded_are_an_error():
    transform = TRANSFORMS.build(dict(type='mmswinv2.CheckLabels', num_classes=150))
    assert transform(dict(img_path='x.jpg')) == dict(img_path='x.jpg')
    with pytest.raises(ValueError, match='CheckLabels must come after LoadAnnotations.*x.png'):
        transform(dict(img_path='x.jpg', seg_map_path='x.png'))


def test_the_readmes_test_without_labels(tmp_path):
    page = Path('configs/mmseg/README.md')
    text, = (token.content for token in tokens(page) if token.type == 'fence' and 'format_only' in token.content)
    (tmp_path / 'config.py').write_text(text.replace("'./", f"'{CONFIGS}/mmseg/"))
    data = Config.fromfile(tmp_path / 'config.py').test_dataloader.dataset
    assert [step.type for step in data.pipeline] == ['LoadImageFromFile', 'Resize', 'PackSegInputs']
    assert data.data_prefix == dict(img_path='images/testing')


def lively(cfg, seed=0):
    """A segmentor that tells places apart, though it was never trained."""
    model = small_model(cfg, seed).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if '.norm' in name and name.endswith('weight'):
                p.fill_(1)
            if 'conv_seg.weight' in name:
                p.normal_(0, 1)
    return model


@pytest.fixture(scope='module')
def model():
    return lively(load('mmseg/upernet_swinv2_t.py'))


def view(img, size, flip=None, ori=(64, 96)):
    img = torch.nn.functional.interpolate(img[None].float(), size, mode='bilinear')[0].round().to(torch.uint8)
    if flip:
        img = img.flip(tta_module.FLIPS[flip])
    return img, sample(torch.zeros(1, *ori, dtype=torch.int64), ori_shape=ori, img_shape=size, flip=flip is not None,
                       flip_direction=flip)


def views_of(seed, views, ori=(64, 96)):
    generator = torch.Generator().manual_seed(seed)
    img = torch.randint(0, 255, (3, ori[0] // 8 + 1, ori[1] // 8 + 1), generator=generator, dtype=torch.uint8)
    img = img.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :ori[0], :ori[1]]
    return [view(img, size, flip, ori) for size, flip in views]


def collate(*images):
    return dict(inputs=[[i[n][0] for i in images] for n in range(len(images[0]))],
                data_samples=[[copy.deepcopy(i[n][1]) for i in images] for n in range(len(images[0]))])


VIEWS = [((64, 96), None), ((64, 96), 'horizontal'), ((97, 131), None), ((48, 75), 'vertical'), ((96, 144), None)]


@pytest.mark.parametrize('mode, strip', [('whole', 64 * 2**20), ('slide', 1)])
def test_equals_mmsegs_augmentation(mode, strip, monkeypatch):
    monkeypatch.setattr(tta_module, 'STRIP_BYTES', strip)
    cfg = load('mmseg/upernet_swinv2_t.py')
    if mode == 'slide':
        cfg.model.test_cfg = dict(mode='slide', crop_size=(56, 72), stride=(37, 48))
    model = lively(cfg)
    data = collate(views_of(0, VIEWS), views_of(1, VIEWS))
    with torch.no_grad():  # mmseg keeps no probabilities: they are added up again here
        predictions = [model.test_step(dict(inputs=inputs, data_samples=copy.deepcopy(samples)))
                       for inputs, samples in zip(data['inputs'], data['data_samples'])]
    wanted = [torch.stack([s.seg_logits.data.softmax(0) for s in samples]).mean(0) for samples in zip(*predictions)]
    theirs = SegTTAModel(module=model).test_step(copy.deepcopy(data))
    found = StreamingSegTTAModel(module=model, keep_probabilities=True).test_step(copy.deepcopy(data))
    assert len(found) == 2
    for ours, probabilities, their in zip(found, wanted, theirs):
        torch.testing.assert_close(ours.seg_logits.data, probabilities, rtol=0, atol=1e-6)
        assert ours.pred_sem_seg.data.shape == (1, 64, 96)
        two = probabilities.topk(2, 0).values
        sure = two[0] - two[1] > 1e-5
        assert sure.float().mean() > .99
        assert torch.equal(ours.pred_sem_seg.data[0][sure], their.pred_sem_seg.data.squeeze(0)[sure])
        assert len(ours.pred_sem_seg.data.unique()) > 3
        assert 'gt_sem_seg' in ours and ours.img_path == 'a.jpg'
    plain = StreamingSegTTAModel(module=model).test_step(data)[0]
    assert 'seg_logits' not in plain and torch.equal(plain.pred_sem_seg.data, found[0].pred_sem_seg.data)


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('size', [(11, 7), (23, 31), (1, 1), (40, 9), (12, 9)])
def test_strips_are_an_interpolation(size, align_corners, monkeypatch, rng):
    monkeypatch.setattr(tta_module, 'STRIP_BYTES', 5 * size[1] * 4 * 3)
    x = torch.randn(5, 12, 9, generator=rng)
    strips = list(tta_module.resized_strips(x, size, align_corners=align_corners))
    assert max(s.shape[1] for _, s in strips) <= 3
    wanted = torch.nn.functional.interpolate(x[None], size, mode='bilinear', align_corners=align_corners)[0]
    torch.testing.assert_close(torch.cat([s for _, s in strips], 1), wanted, rtol=1e-5, atol=1e-5)


def test_one_output_channel_is_plain_testing():
    cfg = load('mmseg/upernet_swinv2_t.py')
    cfg.model.decode_head.update(num_classes=2, out_channels=1, threshold=.4, loss_decode=dict(
        type='CrossEntropyLoss', use_sigmoid=True))
    cfg.model.auxiliary_head = None
    model = lively(cfg)
    one = views_of(0, VIEWS[:1])
    found, = StreamingSegTTAModel(module=model).test_step(collate(one))
    with torch.no_grad():
        plain, = model.test_step(dict(inputs=[one[0][0]], data_samples=[one[0][1]]))
    assert 0 < found.pred_sem_seg.data.float().mean() < 1
    assert torch.equal(found.pred_sem_seg.data, plain.pred_sem_seg.data.long())


@pytest.mark.parametrize('meta, message', [
    (dict(flip_direction=None), 'list flip_direction in the meta_keys of PackSegInputs'),
    (dict(ori_shape=(64, 95)), r'ori_shape must be the same in all views, got \(64, 95\)')])
def test_views_must_say_where_they_come_from(meta, message, model):
    views = views_of(0, VIEWS[:2])
    views[1][1].set_metainfo(meta)
    with pytest.raises(ValueError, match=message):
        StreamingSegTTAModel(module=model).test_step(collate(views))


def test_views_and_samples_must_be_there(model):
    tta, whole = StreamingSegTTAModel(module=model), collate(views_of(0, VIEWS[:2]))
    with pytest.raises(ValueError, match='data must hold >= 1 view .*got no views'):
        tta.test_step(dict(inputs=[], data_samples=[]))
    with pytest.raises(ValueError, match='data_samples for each view in inputs, 2, got 1'):
        tta.test_step(dict(whole, data_samples=whole['data_samples'][:1]))


@pytest.mark.parametrize('size', [(40, 50), (64, 64), (65, 129), (100, 33)])
def test_sliding_over_any_size(size):
    """Images smaller than the crop, equal to it, and of sizes that no stride divides."""
    cfg = load('mmseg/upernet_swinv2_l_slide.py')
    cfg.model.test_cfg.update(crop_size=(64, 64), stride=(43, 43))
    model = lively(cfg)
    with torch.no_grad():
        result, = model.test_step(dict(
            inputs=[torch.randint(0, 255, (3, *size), dtype=torch.uint8)],
            data_samples=[sample(torch.zeros(1, *size, dtype=torch.int64), ori_shape=size, img_shape=size)]))
    assert result.pred_sem_seg.data.shape == (1, *size) and result.seg_logits.data.isfinite().all()
