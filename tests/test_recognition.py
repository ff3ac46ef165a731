"""The backbone on video in mmaction2: registered, inflated as it is loaded, recipes, views, repairs, the demo."""
import math
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

import convert_checkpoint
import demo_video
import make_mini_clips
import plan_memory
from helpers import runs
from helpers.backbones import PLAIN, SMALL, backbone
from helpers.configs import CONFIGS, LEAVES, build, load, readme_example, register
from helpers.files import FILES
from mmswinv2.core.weights import read_file
from mmswinv2.engine import ConvertCheckpointHook, read_run, repairs
from mmswinv2.hosts import mim_name
from mmswinv2.models import VideoSwinTransformerV2
from mmswinv2.video import FiveCrop, ShuffleFrames

pytestmark = [pytest.mark.mmaction, pytest.mark.mim]

VIDEO = [name for name in LEAVES if name.startswith('mmaction2/')]
WINDOWS = dict(window_size=[(2, 4, 4)] * 3, pretrained_window_sizes=[(2, 4, 4)] * 3)


@pytest.fixture(scope='module', autouse=True)
def mmaction():
    register('mmaction2')
    with DefaultScope.overwrite_default_scope('mmaction'):
        yield


def recognizer(arch=PLAIN, classes=3, **options):
    from mmaction.registry import MODELS
    return MODELS.build(dict(
        type='Recognizer3D',
        data_preprocessor=dict(type='ActionDataPreprocessor', mean=[127.] * 3, std=[60.] * 3, format_shape='NCTHW'),
        backbone=dict(dict(type='mmswinv2.VideoSwinTransformerV2', arch=arch, out_indices=(2,), drop_path_rate=0.,
                           **WINDOWS), **options),
        cls_head=dict(type='I3DHead', in_channels=32, num_classes=classes, average_clips='prob'))).double().eval()


def test_a_map_for_one_output_and_a_tuple_for_more():
    x = torch.zeros(1, 3, 4, 32, 32)
    options = dict(window_size=[(2, 4, 4)] * 2, drop_path_rate=0.)
    one = VideoSwinTransformerV2(SMALL, out_indices=(1,), **options)(x)
    several = VideoSwinTransformerV2(SMALL, out_indices=(0, 1), **options)(x)
    assert one.shape == (1, 16, 2, 4, 4) and isinstance(several, tuple) and len(several) == 2


def test_names_of_the_host_stay():
    """mmaction2 has a constructor of its own under our name: unprefixed names are its own in its scope."""
    from mmaction.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS
    theirs = OPTIM_WRAPPER_CONSTRUCTORS.get('SwinOptimWrapperConstructor')
    ours = OPTIM_WRAPPER_CONSTRUCTORS.get('mmswinv2.SwinOptimWrapperConstructor')
    assert theirs.__module__.startswith('mmaction.') and ours.__module__ == 'mmswinv2.engine.optim'
    assert MODELS.get('mmswinv2.VideoSwinTransformerV2') is VideoSwinTransformerV2
    assert mim_name('mmaction') == 'mmaction2'


@pytest.mark.parametrize('route', ['init_cfg', 'load_from', 'converted'])
def test_weights_on_images_are_inflated(route, tmp_path):
    """A still clip gives the features of its frame, by each way that weights can come."""
    image = backbone(PLAIN, out_indices=(2,))
    path = tmp_path / 'a.pth'
    torch.save(FILES['microsoft'][2](image.state_dict(), PLAIN['depths']), path)
    if route == 'converted':
        args = ['--pretrained-window-sizes', '4', '--temporal-patch-size', '2', '--temporal-window', '2']
        assert convert_checkpoint.main([str(path), str(tmp_path / 'b.pth'), *args]) == 0
        path = tmp_path / 'b.pth'
    model = recognizer(init_cfg=dict(type='Pretrained', checkpoint=str(path)) if route != 'load_from' else None)
    if route == 'load_from':
        checkpoint = dict(read_file(path))
        ConvertCheckpointHook().after_load_checkpoint(SimpleNamespace(model=model), checkpoint)
        model.load_state_dict(checkpoint['state_dict'], strict=False)
    else:
        model.backbone.init_weights()
    x = torch.randn(2, 3, 40, 36, dtype=torch.float64)
    out = model.backbone(x[:, :, None].expand(-1, -1, 4, -1, -1))
    torch.testing.assert_close(out, image(x)[-1][:, :, None].expand_as(out), atol=1e-10, rtol=0)


@pytest.mark.parametrize('options, message', [
    (['--temporal-patch-size', '2'], '--temporal-patch-size and --temporal-window must be given together'),
    (['--temporal-patch-size', '2', '--temporal-window', '2', '--to', 'timm'],
     'must be one that timm can compute; it has no third axis, time')])
def test_bad_options_of_the_conversion(options, message, tmp_path, capsys):
    path = tmp_path / 'a.pth'
    torch.save(FILES['timm'][2](backbone(PLAIN).state_dict(), PLAIN['depths']), path)
    args = [str(path), str(tmp_path / 'b.pth'), '--pretrained-window-sizes', '4', *options]
    assert convert_checkpoint.main(args) == 2
    assert message in capsys.readouterr().err and not (tmp_path / 'b.pth').exists()


# Recipes


@pytest.mark.parametrize('name', VIDEO)
def test_one_reduced_step(name):
    """With a small architecture of as many stages and its own windows, at a small size."""
    from mmaction.registry import MODELS
    from mmaction.structures import ActionDataSample
    cfg = load(name)
    stages = 3 if 'mini' in name else 4
    cfg.model.backbone.update(arch=dict(embed_dims=8, depths=[1] * stages, num_heads=[1] * stages), init_cfg=None)
    cfg.model.cls_head.update(in_channels=8 * 2**(stages - 1), num_classes=2)
    model = MODELS.build(cfg.model)
    samples = [ActionDataSample().set_gt_label(i) for i in range(2)]
    inputs = [torch.randint(256, (1, 3, 4, 64, 64), dtype=torch.uint8) for _ in samples]
    loss = model(**model.data_preprocessor(dict(inputs=inputs, data_samples=samples), True), mode='loss')['loss_cls']
    loss.backward()
    assert math.isfinite(loss.item()) and all(p.grad is not None for p in model.parameters())
    views = dict(inputs=[torch.cat([inputs[0]] * 2)], data_samples=samples[:1])
    with torch.no_grad():
        found, = model.eval()(**model.data_preprocessor(views), mode='predict')
    assert found.pred_score.sum() == pytest.approx(1, abs=1e-3)


def test_g_is_the_papers():
    model = build(load('mmaction2/video_swinv2_g_320x16-w20.py'))
    parameters = sum(p.numel() for p in model.backbone.parameters())
    assert parameters == pytest.approx(2997.9e6, rel=1e-3)
    net = model.backbone
    assert net.map_lengths((16, 320, 320)) == [(8, 80, 80), (8, 40, 40), (8, 20, 20), (8, 10, 10)]
    assert net.window_sizes == ((8, 20, 20),) * 3 + ((8, 10, 10),)


# arXiv:2111.09883, appendix A2.2: batch, rate, weight decay, epochs, warm-up
@pytest.mark.parametrize('name, settings', [
    ('video_swinv2_g_256x16-w16', (80, 3.6e-4, .1, 20, 2.5)), ('video_swinv2_g_320x16-w20', (64, 5e-5, .1, 5, 1)),
    ('video_swinv2_t_224x32', (64, 1e-3, .02, 30, 2.5)), ('video_swinv2_l_224x32', (64, 1e-3, .05, 30, 2.5))])
def test_settings(name, settings):
    cfg = load(f'mmaction2/{name}.py')
    wrapper = cfg.optim_wrapper
    batch = 8 * cfg.train_dataloader.batch_size * wrapper.get('accumulative_counts', 1)
    assert settings == (batch, wrapper.optimizer.lr, wrapper.optimizer.weight_decay, cfg.train_cfg.max_epochs,
                        cfg.param_scheduler[0].end)
    assert cfg.auto_scale_lr.base_batch_size == batch


@pytest.mark.parametrize('name, views', [('t_224x32', 12), ('g_320x16-w20', 1), ('g_384x16-w24', 1),
                                         ('g_384x16-w24_4x5', 20)])
def test_views_of_table_5(name, views, tmp_path):
    """What the pipeline of a test makes of a video."""
    from mmaction.registry import TRANSFORMS
    cfg = load(f'mmaction2/video_swinv2_{name}.py')
    frames = np.random.default_rng(0).integers(256, size=(70, 60, 80, 3), dtype=np.uint8)
    write_video(tmp_path / 'a.avi', 'MJPG', frames)
    results = dict(filename=str(tmp_path / 'a.avi'), label=0, start_index=0, modality='RGB')
    for step in cfg.test_dataloader.dataset.pipeline:
        if step.type.startswith('Decord'):
            pytest.importorskip('decord')
        results = TRANSFORMS.build(step)(results)
    assert results['inputs'].shape == (views, 3, cfg.clip_len, cfg.image_size, cfg.image_size)


def write_video(path, codec, frames):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 12, frames.shape[2:0:-1])
    for frame in frames:
        writer.write(frame)
    writer.release()


def test_the_planner_reads_clips(capsys):
    mini = str(CONFIGS / 'mmaction2/video_swinv2_mini.py')
    assert plan_memory.main([mini, '--strategy', 'fsdp', '--gpus', '8']) == 0
    out = capsys.readouterr().out
    assert '32 x 8 x 32 x 32 px per GPU' in out and 'not counted' not in out
    for args, message in (([mini, '--frames', '0'], '--frames must be >= 1, got 0'),
                          ([str(CONFIGS / 'mmseg/upernet_swinv2_mini.py'), '--frames', '8'],
                           '--frames must be given for a backbone on video, got 8')):
        assert plan_memory.main(args) == 2 and message in capsys.readouterr().err


def test_other_classes_are_one_variable(tmp_path):
    cfg = readme_example('mmaction2', tmp_path)
    assert build(cfg).cls_head.fc_cls.out_features == 2
    assert not any('kinetics' in str(cfg[f'{name}_dataloader']) for name in ('train', 'val', 'test'))


# Steps of a pipeline


def test_five_crops():
    frames = [np.arange(6 * 8).reshape(6, 8, 1) + 100 * i for i in range(4)]  # two clips of two frames
    found = FiveCrop((4, 2))(dict(imgs=list(frames)))
    assert len(found['imgs']) == 20 and found['img_shape'] == (2, 4)
    corners = [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2)]
    for (x, y), crops in zip(corners, np.array_split(np.stack(found['imgs']), 5)):
        assert np.array_equal(crops, np.stack(frames)[:, y:y + 2, x:x + 4])
    assert found['crop_bbox'].tolist()[::4] == [[x, y, x + 4, y + 2] for x, y in corners]


def test_its_corners_are_those_of_ten_crops():
    from mmaction.registry import TRANSFORMS
    frames = list(np.random.default_rng(0).integers(256, size=(3, 12, 16, 3)))
    ten = TRANSFORMS.build(dict(type='TenCrop', crop_size=8))(dict(imgs=list(frames)))
    five = FiveCrop(8)(dict(imgs=list(frames)))
    theirs = {crop.tobytes() for crop in ten['imgs']}
    assert all(crop.tobytes() in theirs for crop in five['imgs'])


@pytest.mark.parametrize('size, results, message', [
    (0, None, 'crop_size must be an integer >= 1 px, got 0'), ((4, 4, 4), None, r'must be an integer or \(w, h\)'),
    (8, {}, 'crop_size must be no larger than frames, 8 x 6 px, got 8 x 8'),
    (4, dict(gt_bboxes=[]), 'must be used without boxes'), (4, dict(lazy=dict(flip=False)), 'must come after Fuse')])
def test_bad_crops(size, results, message):
    with pytest.raises(ValueError, match=message):
        FiveCrop(size)(dict(imgs=[np.zeros((6, 8, 3))], **results))


def test_frames_are_shuffled_within_their_clip():
    np.random.seed(0)
    found = ShuffleFrames()(dict(frame_inds=np.arange(16), clip_len=8, num_clips=2))['frame_inds']
    assert found.shape == (16,) and not np.array_equal(found, np.arange(16))
    assert sorted(found[:8]) == list(range(8)) and sorted(found[8:]) == list(range(8, 16))


# Lists and files


def videos(folder, lines, config='mmaction2/video_swinv2_mini.py', **more):
    """The data set of a recipe's training with a list of one's own."""
    from mmaction.registry import DATASETS
    (folder / 'list.txt').write_text('\n'.join(lines))
    return DATASETS.build(dict(load(config).train_dataloader.dataset, ann_file=str(folder / 'list.txt'),
                               data_prefix=dict(video=str(folder)), serialize_data=False, **more))


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    """Three files of one clip, by their suffix."""
    folder = tmp_path_factory.mktemp('clip')
    frames = np.random.default_rng(0).integers(256, size=(24, 32, 32, 3), dtype=np.uint8)
    for suffix, codec in dict(avi='MJPG', mp4='mp4v', mkv='mp4v').items():
        write_video(folder / f'a.{suffix}', codec, frames)
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


DECODERS = {'opencv': 'mmaction2/video_swinv2_mini.py', 'decord': 'mmaction2/video_swinv2_t_224x32.py'}


@pytest.mark.parametrize('decoder', DECODERS)
@pytest.mark.parametrize('suffix', ['.avi', '.mp4', '.mkv'])
@pytest.mark.parametrize('share, why', [
    (0, 'EOFError: an empty file'), (.5, r'EOFError: \d+ of \d+ bytes'), (None, r'\w+')])
def test_a_video_that_is_not_whole_is_named(share, why, suffix, decoder, clip, tmp_path):
    """OpenCV repeats frames, decord ends the process, or neither says which file it was."""
    whole = clip[suffix]
    (tmp_path / f'a{suffix}').write_bytes(b'no video' if share is None else whole[:int(share * len(whole))])
    (tmp_path / f'b{suffix}').write_bytes(whole)
    data = videos(tmp_path, [f'a{suffix} 0', f'b{suffix} 1'], DECODERS[decoder])
    with pytest.raises(ValueError, match=rf'/a{suffix} must be a video that can be read whole, got {why}'):
        data[0]
    assert data[1]['data_samples'].gt_label.tolist() == [1]


@pytest.mark.parametrize('line', ['b c.avi 0', 'b c.avi', 'a.avi  0', 'a.avi cat', ''])
def test_a_line_that_is_no_name_and_label_is_named(line, tmp_path):
    with pytest.raises(ValueError, match=rf"list.txt: lines must be a name and a label with ' ' between them .* "
                                         rf"got 1 that are not: line 2 has '{line}'"):
        videos(tmp_path, ['a.avi 0', line, 'a.avi -1'])


@pytest.mark.parametrize('lines, more, labels', [
    (['a.avi 0', 'b.avi -1'], {}, [0, -1]), (['a.avi', 'b c.avi, 3'], dict(delimiter=','), [-1, 3]),
    (['a.avi 0 2'], dict(multi_class=True, num_classes=3), [[0, 2]])])
def test_lines_that_mmaction2_reads(lines, more, labels, tmp_path):
    data = videos(tmp_path, lines, **more)
    assert [info['label'] for info in data.load_data_list()] == labels


# Repairs


def test_the_missing_localizer_has_a_stand_in():
    with pytest.raises(ImportError, match='which the wheel of mmaction2 1.2.0 lacks'):
        sys.modules['mmaction.models.localizers.drn.drn'].DRN()


def package(folder, *, drn):
    """What a wheel or a checkout has of mmaction, as far as the repair looks."""
    localizers = folder / 'mmaction' / 'models' / 'localizers'
    localizers.mkdir(parents=True)
    (localizers / '__init__.py').write_text('from .drn.drn import DRN\n')
    if drn:
        (localizers / 'drn').mkdir()
    return SimpleNamespace(submodule_search_locations=[str(folder / 'mmaction')])


@pytest.mark.parametrize('drn', [False, True])
def test_nothing_is_done_where_nothing_is_broken(drn, tmp_path, monkeypatch):
    names = ['mmaction.models.localizers.drn', 'mmaction.models.localizers.drn.drn']
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    spec = package(tmp_path, drn=drn)
    monkeypatch.setattr(repairs, 'find_spec', lambda name: spec)
    repairs.stand_in_for_drn()
    assert [name in sys.modules for name in names] == [not drn] * 2
    monkeypatch.setattr(repairs, 'find_spec', lambda name: None)
    repairs.stand_in_for_drn()
    repairs.leave_out_vindlu()


# The data set and the demo


@pytest.fixture
def make(monkeypatch):
    """A function that writes a small data set into a folder."""
    def write(folder, seed=0):
        monkeypatch.setattr(sys, 'argv', ['', str(folder), '--train', '16', '--val', '16', '--seed', str(seed)])
        assert make_mini_clips.main() == 0
        return folder
    return write


def test_clips_are_the_same_for_the_same_seed(make, tmp_path):
    folders = [make(tmp_path / name, seed) for name, seed in (('a', 0), ('b', 0), ('c', 1))]
    files = [{p.relative_to(folder): p.read_bytes() for p in folder.rglob('*.*') if p.suffix != '.json'}
             for folder in folders]
    assert files[0] == files[1] and files[0] != files[2]
    assert len((tmp_path / 'a' / 'val.txt').read_text().splitlines()) == 16
    assert len(list((tmp_path / 'a' / 'stills' / 'train').iterdir())) == len(make_mini_clips.ITEMS)


def test_only_order_tells_what_a_disc_does():
    """Left and right, growing and shrinking have the same radii and places, the other way round."""
    for a, b in (('left', 'right'), ('grow', 'shrink')):
        first, second = (make_mini_clips.paths(motion, np.random.default_rng(3)) for motion in (a, b))
        for x, y in zip(first, second):
            assert np.array_equal(x, y[::-1])


def test_accuracies():
    scores = np.eye(16)[[0, 1, 4, 15]]
    assert demo_video.Result(scores, np.array([0, 2, 5, 15])).accuracies() == [50., 100., 50.]


@pytest.mark.slow
def test_mim_trains_and_tests(make, tmp_path):
    """A step of training and the test with 4 x 5 views, in processes of their own, without any import of tests."""
    env = runs.environment(make(tmp_path / 'data'))
    env['PATH'] = f'{Path(sys.executable).parent}:{env["PATH"]}'
    config = str(CONFIGS / 'mmaction2/video_swinv2_mini.py')
    small = ['model.backbone.arch.depths=[1,1,1]', 'model.backbone.init_cfg=None']
    code, out = runs.run(['mim', 'train', 'mmaction2', config, '--work-dir', str(tmp_path / 'work'), '--cfg-options',
                          *small, 'train_cfg.max_iters=2', 'default_hooks.checkpoint.interval=2',
                          'train_dataloader.batch_size=4'], env)
    assert code == 0, out[-3000:]
    code, out = runs.run(['mim', 'test', 'mmaction2', config.replace('_mini', '_4x5_mini'), '--checkpoint',
                          str(tmp_path / 'work' / 'iter_2.pth'), '--work-dir', str(tmp_path / 'test'), '--cfg-options',
                          small[0]], env)
    assert code == 0 and re.search(r'acc/top1: [\d.]+', out), out[-3000:]


EXACT = runs.several('double_precision', 'double_clips') + """
train_pipeline = [_base_.init, dict(_base_.sample, test_mode=True), _base_.decode, _base_.resize, *_base_.pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=1e-2, fused=False), clip_grad=dict(max_norm=0.5))
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_processes_equal_one(make, tmp_path):
    """DDP, ZeRO-1 and FSDP over clips, and FSDP's file resumed by one process."""
    make(tmp_path / 'data')
    kinds = ('ddp', 'zero1', 'fsdp')
    config = {kind: runs.write_config(tmp_path, 'mmaction2', *([] if kind == 'ddp' else [kind]), iters=4, more=EXACT)
              for kind in kinds}
    one_each = '--cfg-options', 'train_dataloader.batch_size=1'
    steps = [runs.step('mmaction2', config['ddp'], tmp_path / 'one')]
    steps += [runs.step('mmaction2', config[kind], tmp_path / kind, *one_each, processes=2) for kind in kinds]
    codes, logs = runs.train_in_turn(tmp_path, steps, data=tmp_path / 'data')
    assert codes == [[0], *[[0, 0]] * 3], '\n'.join(log[-3000:] for log in logs)
    (tmp_path / 'again').mkdir()
    shutil.copy(tmp_path / 'fsdp' / 'iter_2.pth', tmp_path / 'again')
    (tmp_path / 'again' / 'last_checkpoint').write_text(str(tmp_path / 'again' / 'iter_2.pth'))
    step = runs.step('mmaction2', config['ddp'], tmp_path / 'again', '--resume')
    codes, logs = runs.train_in_turn(tmp_path, [step], data=tmp_path / 'data')
    assert codes == [[0]] and 'resumed epoch: 0, iter: 2' in logs[0], logs[0][-3000:]
    expected = read_run(tmp_path / 'one' / 'iter_4.pth')['state_dict']
    for kind in (*kinds, 'again'):
        got = read_run(tmp_path / kind / 'iter_4.pth')['state_dict']
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value, rtol=1e-8, atol=1e-8, msg=lambda m: f'{kind} {name}: {m}')
