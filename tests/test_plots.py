"""``tools/plot_position_bias.py``."""
import pytest
import torch
from PIL import Image

import plot_position_bias
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


def test_rows(file):
    """The function at the larger window, and the table of the first one resized."""
    import argparse
    args = argparse.Namespace(stage=0, block=1, windows=None, position_bias='log_cpb')
    rows = plot_position_bias.read(file(), args)
    assert [title for title, _ in rows] == ['log-CPB, window 4', 'log-CPB, window 8', 'bicubic, window 8']
    attn = backbone(PLAIN).layers[0].blocks[1].attn
    for (_, table), window in zip(rows, ((4, 4), (8, 8))):
        torch.testing.assert_close(table.double(), attn.cpb_mlp(window, (4, 4)), atol=1e-5, rtol=1e-5)
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
