"""Pictures of the position bias, and what those of attention and signal propagation compute without a host."""
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import plot_attention
import plot_position_bias
import plot_signal_propagation
from helpers.backbones import PLAIN, backbone
from helpers.files import FILES
from mmswinv2.core import VideoSwinTransformerV2

pytestmark = pytest.mark.mmengine


@pytest.fixture
def file(tmp_path):
    def save(kind='log_cpb', layout='own'):
        net = backbone(PLAIN, position_bias=kind)
        torch.save(FILES[layout][2](net.state_dict(), PLAIN['depths']), tmp_path / f'{kind}.pth')
        return str(tmp_path / f'{kind}.pth')
    return save


@pytest.mark.parametrize('kind', ['log_cpb', 'linear_cpb', 'parameterized'])
def test_a_picture(kind, file, tmp_path, capsys):
    args = [file(kind), '--stage', '1', '--windows', '4', '6', '--out', str(tmp_path / 'a.png')]
    assert plot_position_bias.main([*args, '--position-bias', kind]) == 0
    assert Image.open(tmp_path / 'a.png').size > (400, 300)
    out = capsys.readouterr().out
    assert ('window 4 to 6: ' in out) == (kind != 'parameterized')


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """Of a fit."""
    monkeypatch.setattr(plot_position_bias, 'FIT_STEPS', 60)


def test_a_fit_of_linear_coordinates():
    attn = backbone(PLAIN, position_bias='linear_cpb').layers[0].blocks[1].attn
    table = attn.bias_table((4, 4)).detach().float()
    net = plot_position_bias.fit_linear(table, (4, 4))
    assert (net((4, 4), (4, 4)) - table).square().mean().sqrt() < .3 * table.std()


def test_rows(file):
    """The function at the larger window, a fit of linear coordinates, and the table of the first one resized."""
    import argparse
    args = argparse.Namespace(stage=0, block=1, windows=None, position_bias='log_cpb')
    rows = plot_position_bias.read(file(), args)
    assert [title for title, _ in rows] == ['log-CPB, window 4', 'log-CPB, window 8',
                                            'linear CPB (fitted), window 8', 'bicubic, window 8']
    attn = backbone(PLAIN).layers[0].blocks[1].attn
    for (_, table), window in zip(rows, ((4, 4), (8, 8))):
        exact = attn.cpb_mlp(window, (4, 4), dtype=torch.float64)
        torch.testing.assert_close(table.double(), exact, atol=1e-5, rtol=1e-5)
    assert rows[2][1].shape == rows[1][1].shape and not torch.allclose(rows[2][1], rows[1][1])


def test_ratios_of_the_paper():
    """8 to 16: 1.14 linear, 0.33 logarithmic (section 3.3), which is of the offsets themselves; 0.32 of coordinates."""
    assert plot_position_bias.beyond((16, 16), (8, 8), 'linear_cpb') == pytest.approx(1.14, abs=.005)
    assert plot_position_bias.beyond((16, 16), (8, 8), 'log_cpb') == pytest.approx(.33, abs=.02)


@pytest.mark.parametrize('options, message', [
    (['--stage', '3'], '--stage must be from 0 to 2 for'), (['--block', '2'], '--block must be from 0 to 1 for'),
    (['--windows', '1'], '--windows must be >= 2 tokens, got [1]')])
def test_bad_input_is_one_line(options, message, file, tmp_path, capsys):
    assert plot_position_bias.main([file(), '--out', str(tmp_path / 'a.png'), *options]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count('\n') == 1 and not (tmp_path / 'a.png').exists()


def test_files_that_do_not_say_their_windows_or_are_of_video(file, tmp_path, capsys):
    assert plot_position_bias.main([file(layout='timm')]) == 2
    assert 'CHECKPOINT must say its pre-training windows' in capsys.readouterr().err
    net = VideoSwinTransformerV2(dict(embed_dims=8, depths=(1,), num_heads=(1,)), out_indices=(0,))
    torch.save(net.state_dict(), tmp_path / 'v.pth')
    assert plot_position_bias.main([str(tmp_path / 'v.pth')]) == 2
    assert 'must be of a backbone on images' in capsys.readouterr().err


@pytest.mark.parametrize('shifted', [0, 1])
@pytest.mark.parametrize('options', [
    {}, dict(norm_placement='pre', position_bias='linear_cpb'), dict(position_bias='parameterized', qkv_bias=False),
    dict(mask_padding=False), dict(window_fit='balanced')])
def test_probabilities_times_values_are_the_attention_of_the_block(options, shifted, rng):
    """For every token of a map that no window divides."""
    block = backbone(PLAIN, **options).layers[0].blocks[shifted]
    x = torch.randn(1, 7, 6, 8, generator=rng, dtype=torch.float64)
    normed = block.norm1(x) if block.norm_first else x
    seen = F.pad(normed, (0, 0, 0, 2, 0, 1)) if options.get('mask_padding') is False else normed
    attn = block.attn
    values = attn.project(seen)[0, ..., -8:].unflatten(-1, (2, 4))  # (H, W, nH, d)
    rows = torch.stack([torch.stack([plot_attention.attention_from(block, x, (i, j))[1] for j in range(6)])
                        for i in range(7)])  # (7, 6, nH, H, W)
    torch.testing.assert_close(rows.sum((-2, -1)), torch.ones(7, 6, 2).double(), atol=1e-12, rtol=0)
    found = attn.proj(torch.einsum('ijnhw,hwnd->ijnd', rows, values).flatten(-2))
    torch.testing.assert_close(found[None], attn(normed, shifted=block.shifted), atol=1e-10, rtol=0)


def test_a_point_sees_its_cell(rng):
    """Windows of 4 shifted by 2 over 11 x 9 tokens; the token under a pixel where a token is 8 x 8."""
    block = backbone(PLAIN).layers[0].blocks[1]
    column = plot_attention.look(block, torch.randn(1, 11, 9, 8, generator=rng).double(), [(70, 8), (33, 87)], [8, 8])
    assert column.window == (4, 4)
    (first, one, p), (second, two, q) = column.found
    assert (first, second) == ((1, 8), (10, 4))
    assert [(run.start, run.size) for run in (one.rows, one.columns)] == [(0, 2), (6, 3)]
    assert [(run.start, run.size) for run in (two.rows, two.columns)] == [(10, 1), (2, 4)]
    for found, rows, columns in ((p, slice(0, 2), slice(6, 9)), (q, slice(10, 11), slice(2, 6))):
        inside = torch.zeros(11, 9, dtype=torch.bool)
        inside[rows, columns] = True
        assert torch.equal(found > 0, inside.expand(2, -1, -1))


def test_moments_of_parts_are_those_of_the_whole(rng):
    shapes = (2, 3, 4, 5), (1, 1, 1, 5), (1, 7, 2, 5)
    parts = [100 + torch.randn(*shape, generator=rng) * torch.arange(1, 6) for shape in shapes]
    moments = plot_signal_propagation.Moments()
    for part in parts:
        moments.add(part)
    whole = torch.cat([part.flatten(0, -2) for part in parts]).double()
    assert moments.variance == pytest.approx(whole.var(0, correction=0).mean().item(), rel=1e-10)
    assert moments.rms == pytest.approx(whole.square().mean().sqrt().item(), rel=1e-10)


def test_which_images_and_names():
    paths = [Path(f'{i}.png') for i in range(7)]
    assert plot_signal_propagation.spread(paths, 3) == [paths[0], paths[2], paths[4]]
    assert plot_signal_propagation.spread(paths, 9) == paths
    names = plot_signal_propagation.names_of
    assert names([('a/t.py', 'x.pth'), ('b/t.py', 'y.pth')], ['pre-norm', 'res-post-norm']) == [
        't, pre-norm', 't, res-post-norm']
    assert names([('a/t.py', 'x.pth'), ('b/t.py', 'y.pth')], ['pre-norm'] * 2) == ['x.pth, pre-norm', 'y.pth, pre-norm']
