"""``benchmarks/plot_signal_propagation.py`` and ``tools/plot_attention.py`` on models of the hosts."""
import re

import numpy as np
import pytest
import torch
from PIL import Image

import plot_attention
import plot_signal_propagation
from helpers.backbones import randomize
from helpers.configs import CONFIGS, load
from mmswinv2.core import SwinTransformerV2
from trained_backbone import TrainedBackbone

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg, pytest.mark.mmpretrain]

MINI = dict(mmdet='mmdet/htc_swinv2_mini.py', mmseg='mmseg/upernet_swinv2_mini.py',
            mmpretrain='mmpretrain/swinv2_mini.py')


def weights(host, **options):
    """A backbone as in a mini config, with random weights."""
    settings = {k: v for k, v in load(MINI[host]).model.backbone.items() if k not in ('type', 'init_cfg')}
    return randomize(SwinTransformerV2(**dict(settings, **options))).eval()


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Checkpoints of each host; a config with pre-norm and its checkpoint; images."""
    folder = tmp_path_factory.mktemp('files')
    for host in MINI:
        torch.save(dict(state_dict={f'backbone.{k}': v for k, v in weights(host).state_dict().items()}),
                   folder / f'{host}.pth')
    torch.save(weights('mmpretrain', norm_placement='pre').state_dict(), folder / 'pre.pth')
    (folder / 'pre.py').write_text(f"_base_ = '{CONFIGS / MINI['mmpretrain']}'\n"
                                   "model = dict(backbone=dict(norm_placement='pre'))\n")
    rng = np.random.default_rng(0)
    (folder / 'images').mkdir()
    for i in range(3):
        Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(folder / 'images' / f'{i}.png')
    Image.fromarray(rng.integers(256, size=(60, 84, 3), dtype=np.uint8)).save(folder / 'wide.png')
    (folder / 'broken.png').write_bytes((folder / 'wide.png').read_bytes()[:60])
    return folder


def pair(files, host='mmpretrain'):
    return f'{CONFIGS / MINI[host]}={files}/{host}.pth'


def signal(*args):
    return plot_signal_propagation.main([*map(str, args), '--device', 'cpu'])


def attention(files, *args, host='mmpretrain', checkpoint=None, image='images/0.png', points=(5, 9)):
    names = CONFIGS / MINI[host], files / (checkpoint or f'{host}.pth'), files / image
    return plot_attention.main([*map(str, names), '--device', 'cpu', '--points', *map(str, (*points, *args))])


def test_two_curves(files, tmp_path, capsys):
    out = tmp_path / 'new' / 'a.png'
    assert signal(pair(files), f'{files}/pre.py={files}/pre.pth', '--images', files / 'images', '--out', out) == 0
    assert Image.open(out).size > (600, 300)
    out = capsys.readouterr().out
    assert len(re.findall(r'^(swinv2_mini, res-post-norm|pre, pre-norm): average channel variance .* max/min [\d.]+; '
                          r'root mean square .* max/min [\d.]+$', out, re.M)) == 2
    assert 'residual norms are 0' not in out


def test_a_curve_is_that_of_blocks_over_all_images(files, monkeypatch, tmp_path):
    """As hooks on blocks measure it by hand, over all three images at once."""
    drawn = []
    monkeypatch.setattr(plot_signal_propagation, 'draw', lambda curves, picture: drawn.extend(curves))
    assert signal(pair(files), '--images', files / 'images') == 0
    net, values = weights('mmpretrain'), []
    for stage in net.layers:
        for block in stage.blocks:
            block.register_forward_hook(lambda module, args, out: values.append(out))
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    images = np.stack([np.asarray(Image.open(files / 'images' / f'{i}.png')) for i in range(3)])
    with torch.no_grad():
        net(torch.from_numpy((images - mean) / std).float().permute(0, 3, 1, 2))
    curve, = drawn
    variance = [x.var((0, 1, 2), correction=0).mean().item() for x in values]
    assert sum(curve.values('variance'), []) == pytest.approx(variance, rel=1e-4)
    assert sum(curve.values('rms'), []) == pytest.approx([x.square().mean().sqrt().item() for x in values], rel=1e-4)
    assert curve.ratio('variance') == pytest.approx(max(variance) / min(variance), rel=1e-4)
    assert [len(stage) for stage in curve.stages] == [2, 2, 2]


@pytest.mark.parametrize('host', ['mmdet', 'mmseg'])
def test_blocks_one_by_one_are_the_backbone(host, files):
    """On an image after the pipeline of a detector, which is padded, and of a segmentor."""
    model = TrainedBackbone(str(CONFIGS / MINI[host]), str(files / f'{host}.pth'), options={})
    x, image = model.read(files / 'wide.png')
    assert image.shape[-1] > 84 and (x.shape[-1] > image.shape[-1]) == (host == 'mmdet')
    steps = list(model.run(x))
    with torch.no_grad():
        outs = model.net(x)
    last = {step.stage: step.after for step in steps}
    for i, out in zip(model.net.out_indices, outs, strict=True):
        torch.testing.assert_close(getattr(model.net, f'norm{i}')(last[i]).permute(0, 3, 1, 2), out)
    assert torch.is_grad_enabled() and not any(module._forward_hooks for module in model.net.modules())
    assert not any(step.after.requires_grad for step in steps)


def test_an_untrained_model_is_said_to_be_one(files, monkeypatch, tmp_path, capsys):
    """Its blocks are the identity."""
    drawn = []
    monkeypatch.setattr(plot_signal_propagation, 'draw', lambda curves, picture: drawn.extend(curves))
    torch.save(SwinTransformerV2(dict(embed_dims=48, depths=[2, 2, 2], num_heads=[2, 4, 8]), window_size=[4, 4, 2],
                                 pretrained_window_sizes=[4, 4, 2], out_indices=(2,)).state_dict(), tmp_path / 'a.pth')
    assert signal(f'{CONFIGS / MINI["mmpretrain"]}={tmp_path}/a.pth', '--images', files / 'images') == 0
    assert f'{tmp_path}/a.pth: residual norms are 0' in capsys.readouterr().out
    assert [first == last for first, last in drawn[0].values('variance')] == [True] * 3


def test_a_broken_image_is_named_and_skipped(files, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(plot_signal_propagation, 'draw', lambda curves, picture: drawn.extend(curves))
    assert signal(pair(files), '--images', files / 'images', files / 'broken.png') == 1
    err = capsys.readouterr().err
    assert err.startswith(f'plot_signal_propagation: skipped {files}/broken.png: ') and err.count('\n') == 1
    assert drawn[0].stages[0][0].count == 3 * 8 * 8


@pytest.mark.parametrize('change, message', [
    (dict(images='none/*.png'), "IMAGES must name files, folders with images or patterns, got '.*none/"),
    (dict(images='broken.png'), '--images must hold an image that can be read, got .*broken.png: '),
    (dict(model='a.py=b.pth'), "each model must be CONFIG=CHECKPOINT, two files, got 'a.py=b.pth'"),
    (dict(model='{config}={files}/pre.pth'), 'CHECKPOINT must fit the backbone of .*mini.py, got .*pre.pth: '),
    (dict(model='{config}={files}/mmseg.pth'), 'CHECKPOINT must fit the backbone of .*mini.py, got .*mmseg.pth: '),
    (dict(model=f'{CONFIGS}/mmaction2/video_swinv2_mini.py={{files}}/pre.pth'), "got default_scope='mmaction'"),
    (dict(options=['--labels', 'a', 'b']), '--labels must be one per model, 1, got 2'),
    (dict(options=['--number', '0']), '--number must be >= 1, got 0')])
def test_bad_input_of_signal_propagation_is_one_line(change, message, files, tmp_path, capsys):
    model = change.get('model', pair(files)).format(config=CONFIGS / MINI['mmpretrain'], files=files)
    args = [model, '--images', files / change.get('images', 'images'), '--out', tmp_path / 'a.png']
    assert signal(*args, *change.get('options', [])) == 2
    err = capsys.readouterr().err
    assert re.search(message, err) and err.startswith('plot_signal_propagation: ') and err.count('\n') == 1
    assert not (tmp_path / 'a.png').exists()


def test_points_at_two_windows_and_heads(files, tmp_path):
    args = ['--block', 1, '--window-size', 3, '--heads', 1, '--out', tmp_path / 'a.png']
    assert attention(files, *args) == 0
    assert Image.open(tmp_path / 'a.png').size > (400, 400)


def test_what_is_drawn_is_of_the_block_and_window_that_are_asked_for(files, monkeypatch):
    drawn = []
    monkeypatch.setattr(plot_attention, 'draw', lambda *args: drawn.append(args))
    assert attention(files, '--stage', 1, '--block', 1, '--window-size', 3, '--heads') == 0
    (image, columns, heads, _), = drawn
    assert image.shape == (32, 32) and heads == (None, 0, 1, 2, 3)
    assert image[9, 5] == pytest.approx(np.asarray(Image.open(files / 'images' / '0.png'))[9, 5].mean(), abs=.01)
    for column, size in zip(columns, (4, 3), strict=True):
        assert column.window == (size, size) and column.stride == (8, 8)
        net = weights('mmpretrain', window_size=[4, 4, 2] if size == 4 else 3)
        model = TrainedBackbone(str(CONFIGS / MINI['mmpretrain']), str(files / 'mmpretrain.pth'), options={})
        with torch.no_grad():
            x = net.layers[0](net.embed(model.read(files / 'images' / '0.png')[0]))[1]
            x = net.layers[1].blocks[0](x)
        wanted = plot_attention.attention_from(net.layers[1].blocks[1], x, (1, 0))
        (token, cell, found), = column.found
        assert token == (1, 0) and cell == wanted[0]
        torch.testing.assert_close(found, wanted[1])


@pytest.mark.parametrize('change, message', [
    (dict(image='none.png'), "IMAGE must be a file, got '.*none.png'"),
    (dict(image='broken.png'), 'IMAGE must be one that can be read, got .*broken.png: '),
    (dict(points=(5, 32)), '--points must be within the image, 32 x 32 px as the model takes it, got 5 32'),
    (dict(points=(5, 6, 7)), '--points must be pairs X Y, got 3 numbers'),
    (dict(options=['--stage', '3']), '--stage must be from 0 to 2 for .*, got 3'),
    (dict(options=['--block', '2']), '--block must be from 0 to 1 for .*, got 2'),
    (dict(options=['--heads', '0', '2']), '--heads must be from 0 to 1 for .*, got 2'),
    (dict(options=['--window-size', '1']), 'window_size must be >= 2 tokens, got 1'),
    (dict(checkpoint='none.pth'), 'none.pth'), (dict(checkpoint='pre.pth'), 'CHECKPOINT must fit the backbone of ')])
def test_bad_input_of_attention_is_one_line(change, message, files, tmp_path, capsys):
    options, change = change.get('options', []), {k: v for k, v in change.items() if k != 'options'}
    assert attention(files, '--out', tmp_path / 'a.png', *options, **change) == 2
    err = capsys.readouterr().err
    assert re.search(message, err) and err.startswith('plot_attention: ') and err.count('\n') == 1
    assert not (tmp_path / 'a.png').exists()
