"""The command line of tools/convert_checkpoint.py: files in, files out, one line and exit code 2 when it cannot."""
import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import convert_checkpoint
from helpers import peer_files
from helpers.backbones import PLAIN, backbone
from helpers.bad_files import evil
from helpers.files import PLACES, SILENT
from helpers.interpreter import run_python
from mmswinv2.core.weights import LAYOUTS, load_backbone, read_backbone_state, read_file, write_file
from mmswinv2.hosts import is_installed

pytestmark = pytest.mark.core

DEPTHS = PLAIN['depths']


def run(capsys, *args):
    code = convert_checkpoint.main([str(a) for a in args])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def state():
    return backbone(PLAIN, window_size=[16, 16, 8], pretrained_window_sizes=[12, 12, 6]).float().state_dict()


def test_microsoft_to_ours_says_what_it_did(state, tmp_path, capsys):
    src, dst = tmp_path / 'a.pth', tmp_path / 'b.pth'
    torch.save(peer_files.microsoft(state, DEPTHS, [16, 16, 8], [12, 12, 6]), src)
    before = src.read_bytes()
    code, out, err = run(capsys, src, dst)
    assert code == 0 and err == ''
    lines = out.splitlines()
    assert lines[0].startswith("source   microsoft, ") and "under ''" in lines[0]
    assert 'dropped  derived buffers: 12 (layers.0.blocks.0.attn.relative_position_index, ...)' in lines
    assert 'kept     classification head: 2 (head.weight, ...)' in lines
    assert 'dropped  beside the weights: 2 (max_accuracy, ...)' in lines
    assert 'config   window_size=[16, 16, 8]' in lines
    assert 'config   pretrained_window_sizes=[12, 12, 6]' in lines
    assert "config   arch={'embed_dims': 8, 'depths': [2, 1, 2], 'num_heads': [2, 4, 4]}" in lines
    assert src.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ['a.pth', 'b.pth']
    net = backbone(PLAIN, seed=1, window_size=16, pretrained_window_sizes=[12, 12, 6]).float()
    load_backbone(net, read_backbone_state(read_file(dst)))
    torch.testing.assert_close(net.norm2.weight, state['norm2.weight'])
    written = read_file(dst)['state_dict']
    assert all(torch.equal(written[f'head.{part}'], value) for part, value in peer_files.head(state).items())


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('target', LAYOUTS)
def test_there_and_back_again(target, suffix, tmp_path, capsys):
    """With the head, and whatever else the target has a place for; it does not disturb a backbone."""
    given = backbone(PLAIN).float().state_dict()
    state = given if LAYOUTS[target].each_norm else {k: v for k, v in given.items() if k[:5] not in ('norm0', 'norm1')}
    head = {f'head.{part}': value for part, value in peer_files.head(state).items()}
    more = {**head, 'mask_token': peer_files.mask_token(state)}
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in {**given, **more}.items()}), tmp_path / 'det.pth')
    there = tmp_path / f'there{suffix}'
    code, out, err = run(capsys, tmp_path / 'det.pth', there, '--to', target)
    assert (code, err) == (0, '') and 'kept     classification head: 2 (head.weight, ...)' in out.splitlines()
    assert ('dropped  norms of earlier outputs: 4' in out) == (state is not given)
    kept = PLACES[target][1] is not None
    assert f'{"kept    " if kept else "dropped "} mask token of SimMIM: 1 (mask_token)' in out.splitlines()
    written = read_file(there)
    assert (LAYOUTS[target].container in written) == (suffix == '.pth' and LAYOUTS[target].container is not None)
    options = ['--pretrained-window-sizes', 4, 4, 4] if target in SILENT else []
    code, out, _ = run(capsys, there, tmp_path / f'back{suffix}', *options)
    assert code == 0 and out.startswith(f'source   {target}, ')
    back = read_file(tmp_path / f'back{suffix}')
    back = back.get('state_dict', back)
    assert set(back) == {*state, *head, *['mask_token'] * kept}
    assert all(torch.equal(back[k], v) for k, v in {**state, **head}.items())
    load_backbone(backbone(PLAIN, seed=1).float(), read_backbone_state(back))


def test_windows_of_other_layouts_are_asked_for(state, tmp_path, capsys):
    save_file(peer_files.timm({k: v.clone() for k, v in state.items()}, DEPTHS), tmp_path / 'a.safetensors')
    code, out, _ = run(capsys, tmp_path / 'a.safetensors', tmp_path / 'b.pth')
    assert code == 0 and 'SRC does not say them' in out
    assert 'pretrained_window_sizes' not in read_file(tmp_path / 'b.pth')['state_dict']
    code, _, _ = run(capsys, tmp_path / 'a.safetensors', tmp_path / 'c.pth', '--pretrained-window-sizes', 8)
    assert code == 0
    assert read_file(tmp_path / 'c.pth')['state_dict']['pretrained_window_sizes'].tolist() == [[8, 8]] * 3


def test_a_shared_position_bias_is_written_for_each_block(state, tmp_path, capsys):
    torch.save(peer_files.simmim(state, DEPTHS, shared=True), tmp_path / 'a.pth')
    assert run(capsys, tmp_path / 'a.pth', tmp_path / 'b.safetensors')[0] == 0  # which refuses shared memory
    loaded = load_file(tmp_path / 'b.safetensors')
    for block in range(2):
        torch.testing.assert_close(loaded[f'layers.0.blocks.{block}.attn.cpb_mlp.0.weight'],
                                   state['layers.0.blocks.0.attn.cpb_mlp.0.weight'])


def bad_files(folder, state):
    whole = folder / 'whole.pth'
    torch.save(dict(state_dict=dict(state)), whole)
    contents = whole.read_bytes()
    (folder / 'empty.pth').write_bytes(b'')
    (folder / 'empty.safetensors').write_bytes(b'')
    (folder / 'truncated.pth').write_bytes(contents[:len(contents) // 2])
    (folder / 'foreign.pth').write_bytes(b'\x89PNG\r\n\x1a\n' + bytes(range(200)))
    (folder / 'text.pth').write_text('not a checkpoint\n')
    (folder / 'text.safetensors').write_text('not a checkpoint\n')
    save_file({k: v for k, v in state.items()}, folder / 'whole.safetensors')
    (folder / 'cut.safetensors').write_bytes((folder / 'whole.safetensors').read_bytes()[:-100])
    torch.save([1, 2], folder / 'list.pth')
    evil(folder / 'code.pth', folder / 'ran', 'zip', dict(state))
    torch.save({'fc.weight': torch.zeros(2, 2)}, folder / 'other.pth')
    torch.save(dict(state_dict=dict(state), legacy=1), folder / 'old.pth', _use_new_zipfile_serialization=False)
    (folder / 'old_cut.pth').write_bytes((folder / 'old.pth').read_bytes()[:-1000])


@pytest.mark.parametrize('name, message', [
    ('missing.pth', 'must be a file, there is none at'),
    ('empty.pth', 'must be a whole file that torch.save wrote'),
    ('empty.safetensors', 'must be a whole safetensors file'),
    ('truncated.pth', 'must be a whole file that torch.save wrote'),
    ('old_cut.pth', 'must be a whole file that torch.save wrote'),
    ('foreign.pth', 'must be a whole file that torch.save wrote'),
    ('text.pth', 'must be a whole file that torch.save wrote'),
    ('text.safetensors', 'must be a whole safetensors file'),
    ('cut.safetensors', 'must be a whole safetensors file'),
    ('list.pth', 'must hold a dict, got list'),
    ('code.pth', 'io.open; code in a file is not run'),  # _io.open from Python 3.12 on
    ('other.pth', 'no patch embedding among 1 names (fc.weight)'),
])
def test_a_bad_file_is_one_line_and_no_output(name, message, state, tmp_path, capsys):
    bad_files(tmp_path, state)
    names = sorted(p.name for p in tmp_path.iterdir())
    code, out, err = run(capsys, tmp_path / name, tmp_path / 'out.pth')
    assert code == 2 and out == ''
    assert err.count('\n') == 1 and err.startswith('convert_checkpoint: ') and message in err
    assert sorted(p.name for p in tmp_path.iterdir()) == names  # no output, no leftovers, no code run


ALONE = """
import runpy, sys
sys.modules.update(mmengine=None, numpy=None)  # as if not installed
sys.path.insert(0, {tools!r})
sys.argv = [{tool!r}, {src!r}, {dst!r}]
runpy.run_path({tool!r}, run_name='__main__')
"""


def test_a_run_is_converted_by_the_command_where_there_is_no_mmengine(state, tmp_path):
    """As mmengine 0.10 writes it: with HistoryBuffer objects and what numpy computed."""
    contents = dict(state_dict={f'backbone.{k}': v for k, v in state.items()}, meta=dict(seed=3), message_hub={})
    if is_installed('mmengine'):
        import numpy as np
        from mmengine.logging import HistoryBuffer
        info = dict(best_score=np.float64(.5), array=np.arange(3), bools=np.ones(2, bool), cfg='model = dict()')
        contents.update(meta=dict(seed=np.int64(3)), message_hub=dict(
            log_scalars=dict(loss=HistoryBuffer([1., 2.], [1, 1])), runtime_info=info, resumed_keys=dict(loss=True)))
    torch.save(contents, tmp_path / 'iter_2.pth')
    tool = convert_checkpoint.__file__
    result = run_python(ALONE.format(tools=str(Path(tool).parent), tool=tool, src=str(tmp_path / 'iter_2.pth'),
                                     dst=str(tmp_path / 'b.pth')))
    assert result.returncode == 0, result.stderr
    assert 'dropped  beside the weights: 2 (meta, ...)' in result.stdout.splitlines()
    written = read_file(tmp_path / 'b.pth')['state_dict']
    assert written.keys() == state.keys() and all(torch.equal(v, state[k]) for k, v in written.items())


def test_a_failed_command_is_an_exit_code_and_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['convert_checkpoint.py', str(tmp_path / 'c.pth'), 'b.pth'])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(convert_checkpoint.__file__, run_name='__main__')
    out, err = capsys.readouterr()
    assert (exit.value.code, out) == (2, '') and err.count('\n') == 1


@pytest.mark.parametrize('how, expected', [('sum', lambda w: w.sum(1, True)), ('mean', lambda w: w.mean(1, True))])
def test_channels_of_images(how, expected, state, tmp_path, capsys):
    torch.save(dict(model_ema=dict(state)), tmp_path / 'a.pth')
    code, out, _ = run(capsys, tmp_path / 'a.pth', tmp_path / 'b.pth', '--in-channels', 1, '--adapt-in-channels', how)
    assert code == 0 and 'config   in_channels=1' in out.splitlines() and "under 'model_ema.'" in out
    name = 'patch_embed.proj.weight'
    torch.testing.assert_close(read_file(tmp_path / 'b.pth')['state_dict'][name], expected(state[name]))


@pytest.mark.parametrize('args, message', [
    (['--in-channels', '1'], '--in-channels and --adapt-in-channels must be given together, got 1 and None'),
    (['--in-channels', '0', '--adapt-in-channels', 'sum'], 'in_channels must be an integer >= 1, got 0'),
    (['--source', 'timm', '--prefix', 'backbone'], 'prefix must be one that names in the checkpoint begin with'),
    (['--pretrained-window-sizes', '8'], r'must be what SRC says, [12, 12, 6], got [8, 8, 8]'),
    (['--pretrained-window-sizes', '8', '8'], 'must have one entry per stage, 3 in all, got 2'),
    (['--window-size', '8'], '--window-size must be given with --to microsoft only, got --to mmswinv2'),
    (['--to', 'microsoft', '--image-size', '100'], 'image_size must be a multiple of 16 px for microsoft, got 100'),
    (['--to', 'microsoft', '--image-size', '176', '--window-size', '8'], 'a map of 44 tokens and windows of 8'),
    (['--to', 'microsoft', '--window-size', '100000'], 'window_size must be <= 4096 tokens, got 100000'),
    (['--to', 'microsoft', '--window-size', '1024'], 'buffers of at most 8 GiB for microsoft, got'),
    (['--to', 'microsoft', '--window-size', '8', '--image-size', str(2**40)], 'at most 8 GiB for microsoft, got'),
    (['--pretrained-window-sizes', '9' * 20], 'must be <= 4096 tokens, got 99999999999999999999'),
    (['--pretrained-window-sizes', '8', '8', '5000'], '--pretrained-window-sizes[2] must be <= 4096 tokens, got 5000'),
])
def test_options_that_do_not_fit(args, message, state, tmp_path, capsys):
    torch.save(dict(state), tmp_path / 'a.pth')
    code, out, err = run(capsys, tmp_path / 'a.pth', tmp_path / 'b.pth', *args)
    assert code == 2 and message in err and err.count('\n') == 1
    assert [p.name for p in tmp_path.iterdir()] == ['a.pth']


def test_the_input_is_not_overwritten(state, tmp_path, capsys):
    torch.save(dict(state), tmp_path / 'a.pth')
    (tmp_path / 'link.pth').symlink_to(tmp_path / 'a.pth')
    before = (tmp_path / 'a.pth').read_bytes()
    for dst in ('a.pth', 'link.pth'):
        code, _, err = run(capsys, tmp_path / 'a.pth', tmp_path / dst)
        assert code == 2 and 'DST must be another file than SRC' in err
    assert (tmp_path / 'a.pth').read_bytes() == before
    code, _, err = run(capsys, tmp_path / 'a.pth', tmp_path / 'no' / 'b.pth')
    assert code == 2 and 'must be in a folder that exists' in err
    code, _, err = run(capsys, tmp_path / 'a.pth', tmp_path)
    assert code == 2 and 'DST must be a file' in err


def test_what_is_no_file_is_not_replaced(tmp_path, capsys):
    import os
    source = tmp_path / 'a.pth'
    torch.save(backbone(PLAIN).state_dict(), source)
    os.mkfifo(tmp_path / 'pipe')
    assert convert_checkpoint.main([str(source), str(tmp_path / 'pipe')]) == 2
    assert 'the output must be a file or absent' in capsys.readouterr().err
    assert (tmp_path / 'pipe').is_fifo()
    (tmp_path / 'link.pth').symlink_to(tmp_path / 'real.pth')
    assert convert_checkpoint.main([str(source), str(tmp_path / 'link.pth')]) == 0
    assert (tmp_path / 'link.pth').is_symlink() and (tmp_path / 'real.pth').is_file()


def test_a_failed_write_leaves_what_was_there(state, tmp_path, monkeypatch):
    path = tmp_path / 'a.pth'
    path.write_bytes(b'old')

    def fail(contents, file):
        Path(file).write_bytes(b'half')
        raise OSError('no space left on device')
    monkeypatch.setattr(torch, 'save', fail)
    with pytest.raises(OSError, match='no space left'):
        write_file(path, dict(state))
    assert path.read_bytes() == b'old' and [p.name for p in tmp_path.iterdir()] == ['a.pth']


def test_views_are_written_without_what_they_are_views_of(tmp_path):
    write_file(tmp_path / 'a.pth', dict(a=torch.zeros(1000, 1000)[:2, :2]))
    assert (tmp_path / 'a.pth').stat().st_size < 10000
