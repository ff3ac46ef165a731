"""Files as other tools write them, as users name them, damaged, with code: read right, or refused in one clear line."""
import contextlib
import io
import os
import pickle
import stat
import zipfile
from pathlib import Path

import pytest
import torch
from mmengine.runner import CheckpointLoader
from safetensors.torch import load_file, save_file

import convert_checkpoint
from helpers import peer_files, toy, zips
from helpers.backbones import SMALL, randomize
from helpers.bad_files import cut, evil, flip
from mmswinv2.core.weights import files, load_backbone, not_finite, read_backbone_state, read_file, write_file
from mmswinv2.engine import read_run
from mmswinv2.engine.loading import safe_globals
from mmswinv2.models import SwinTransformerV2

pytestmark = pytest.mark.mmengine

OPTIONS = dict(window_size=4, pretrained_window_sizes=4, out_indices=(0, 1))


def backbone(seed=0, **options):
    return randomize(SwinTransformerV2(SMALL, **dict(OPTIONS, **options)), seed=seed)


def assert_equal(a, b):
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


class Detector(toy.Toy):
    """A model with a backbone and a mask of its own."""

    def __init__(self):
        super().__init__()
        self.backbone = backbone(seed=1)
        self.register_buffer('mask', torch.tensor(float('-inf')))


# the ways in which a checkpoint is read

def init_cfg(path, tmp_path):
    net = backbone(init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    net.init_weights()
    return net


def core(path, tmp_path):
    load_backbone(backbone(), read_backbone_state(read_file(path)))


def convert(path, tmp_path):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = convert_checkpoint.main([str(path), str(tmp_path / 'out.pth')])
    if code:
        assert code == 2 and said.getvalue().count('\n') == 1
        raise ValueError(said.getvalue().rstrip())


def load_from(path, tmp_path):
    toy.runner(tmp_path / 'work', iters=2, model=Detector(), load_from=str(path), non_finite=None).train()


def resume_named(path, tmp_path):
    toy.runner(tmp_path / 'work', iters=8, load_from=str(path), resume=True).train()


def resume_last(path, tmp_path):
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work' / 'last_checkpoint').write_text(str(path))
    toy.runner(tmp_path / 'work', iters=8, resume=True).train()


def read_as_before_torch_2_6(path, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, 'unpickle', files.unpickle_before_torch_2_6)
        read_run(path)


WAYS = [read_as_before_torch_2_6, init_cfg, convert, load_from, resume_named, resume_last]


@pytest.mark.parametrize('names', [None, ['data/0'], ['data.pkl']], ids=['all', 'one tensor', 'the pickle'])
@pytest.mark.parametrize('layout', ['own', 'microsoft'])
def test_what_a_zip_tool_packed_is_read_right(layout, names, tmp_path):
    state = backbone().state_dict()
    contents = dict(state_dict=dict(state)) if layout == 'own' else peer_files.microsoft(
        {k: v for k, v in state.items() if k[:5] != 'norm0'}, SMALL['depths'])
    torch.save(contents, tmp_path / 'stored.pth')
    path = zips.deflated(tmp_path / 'stored.pth', tmp_path / 'a.pth', names)
    with zipfile.ZipFile(path) as archive:
        assert {i.compress_type for i in archive.infolist()} >= {zipfile.ZIP_DEFLATED}
    key = 'state_dict' if layout == 'own' else 'model'
    assert_equal(read_file(path)[key], contents[key])

    kept = [k for k in state if layout == 'own' or k[:5] not in ('norm0', 'pretr')]
    assert_equal({k: v for k, v in init_cfg(path, tmp_path).state_dict().items() if k in kept},
                 {k: state[k] for k in kept})
    convert(path, tmp_path)
    head = {} if layout == 'own' else {f'head.{k}': v for k, v in peer_files.head(state).items()}
    assert_equal(read_file(tmp_path / 'out.pth')['state_dict'], {**{k: state[k] for k in kept}, **head})


def test_a_run_that_a_zip_tool_packed_is_loaded_right(tmp_path):
    toy.runner(tmp_path / 'a', iters=2).train()
    path = zips.deflated(tmp_path / 'a' / 'iter_2.pth', tmp_path / 'packed.pth')
    expected = torch.load(tmp_path / 'a' / 'iter_2.pth', weights_only=False)['state_dict']
    for resume in (False, True):
        runner = toy.runner(tmp_path / str(resume), iters=2, load_from=str(path), resume=resume)
        runner.load_or_resume()
        assert_equal(runner.model.state_dict(), expected)


@pytest.mark.parametrize('packed', [False, True], ids=['stored', 'deflated'])
@pytest.mark.parametrize('record', ['data/0', 'data.pkl', 'version'])
def test_a_zeroed_local_header_is_refused(record, packed, tmp_path):
    path = tmp_path / 'a.pth'
    torch.save(dict(backbone().state_dict()), path)
    if packed:
        path = zips.deflated(path, tmp_path / 'packed.pth')
    with zipfile.ZipFile(path) as archive:
        info = next(i for i in archive.infolist() if i.filename.endswith(f'/{record}'))
    data = bytearray(path.read_bytes())
    data[info.header_offset:info.header_offset + 30] = bytes(30)
    path.write_bytes(data)
    with pytest.raises(ValueError, match='checkpoint must be a whole file that torch.save wrote') as error:
        read_file(path)
    assert '\n' not in str(error.value)


def spoilt(state, value, dtype=torch.float32):
    """Two weights with one such value each."""
    state = {k: v.to(dtype) if v.is_floating_point() else v.clone() for k, v in state.items()}
    for name in ('layers.0.blocks.1.attn.proj.weight', 'norm1.bias'):
        state[name].view(-1)[3] = value
    return state


NOT_FINITE = r'checkpoint must hold finite weights, got NaN or infinity in 2 of \d+: ' \
    r'layers.0.blocks.1.attn.proj.weight, norm1.bias'


def test_a_runs_own_checkpoint_is_read_by_init_cfg_and_converted(tmp_path):
    """It holds the message hub, not weights alone."""
    model = Detector()
    toy.runner(tmp_path / 'run', iters=2, model=model, non_finite=None).train()
    path = tmp_path / 'run' / 'iter_2.pth'
    assert 'message_hub' in torch.load(path, weights_only=False)
    init_cfg(path, tmp_path)
    convert(path, tmp_path)
    assert_equal(read_file(tmp_path / 'out.pth')['state_dict'], model.backbone.state_dict())


@pytest.mark.parametrize('way', [init_cfg, core, convert, load_from])
@pytest.mark.parametrize('value, dtype', [
    (float('nan'), torch.float32), (float('inf'), torch.float32), (float('-inf'), torch.float64),
    (float('nan'), torch.float16), (float('inf'), torch.bfloat16), (float('nan'), torch.float8_e4m3fn)])
@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors'])
def test_weights_that_are_not_finite_are_refused(name, value, dtype, way, tmp_path):
    state = spoilt(backbone().state_dict(), value, dtype)
    (save_file if name == 'a.safetensors' else torch.save)(state, tmp_path / name)
    with pytest.raises(ValueError, match=NOT_FINITE):
        way(tmp_path / name, tmp_path)
    assert not (tmp_path / 'out.pth').exists()


def test_the_loader_of_other_models_takes_infinities(tmp_path):
    """Where there is no backbone of ours a file is read as it is: other models keep masks and thresholds in it."""
    state = dict(mask=torch.tensor([0., float('-inf')]), weight=torch.tensor(float('nan')))
    torch.save(dict(state_dict=state), tmp_path / 'a.pth')
    loaded = CheckpointLoader.load_checkpoint(str(tmp_path / 'a.pth'))['state_dict']
    assert loaded['mask'].tolist() == [0., float('-inf')] and loaded['weight'].isnan()


def test_infinities_outside_of_the_backbone_are_left_to_their_model(tmp_path):
    torch.save(dict(state_dict=Detector().state_dict()), tmp_path / 'a.pth')
    load_from(tmp_path / 'a.pth', tmp_path)
    init_cfg(tmp_path / 'a.pth', tmp_path)


def test_a_tensor_that_repeats_one_number_is_not_written_out():
    """Its 2**50 elements would not fit in any memory."""
    for value in (1., float('nan')):
        large = torch.tensor(value).expand(2**25, 2**25)
        assert not_finite(dict(large=large, meta=torch.ones(2, device='meta'), none=torch.ones(0))) == (
            ['large'] if value != value else [])


def as_legacy(state, path):
    torch.save(state, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize('write', [torch.save, as_legacy, save_file], ids=['zip', 'legacy', 'safetensors'])
@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors', 'A.SAFETENSORS', 'a', 'a.bin'])
def test_what_a_file_is_called_does_not_matter(name, write, tmp_path):
    state = dict(backbone().state_dict())
    write(state, tmp_path / name)
    assert_equal(read_file(tmp_path / name), state)
    init_cfg(tmp_path / name, tmp_path)
    assert_equal(CheckpointLoader.load_checkpoint(str(tmp_path / name)), state)


@pytest.mark.parametrize('write', [torch.save, as_legacy, save_file], ids=['zip', 'legacy', 'safetensors'])
def test_what_was_read_is_not_mapped_from_the_file(write, tmp_path):
    """Who writes into the file in place would end the process."""
    write(dict(a=torch.ones(2**20)), tmp_path / 'a')
    state = read_file(tmp_path / 'a')
    assert str(tmp_path / 'a') not in Path('/proc/self/maps').read_text()
    (tmp_path / 'a').write_bytes(b'')
    assert state['a'].sum() == 2**20


@pytest.mark.parametrize('name', ['a.safetensors', 'A.SAFETENSORS', 'a.SafeTensors'])
def test_the_end_of_a_name_is_written_as_meant(name, tmp_path):
    write_file(tmp_path / name, backbone().state_dict())
    assert_equal(load_file(tmp_path / name), backbone().state_dict())


def test_a_legacy_file_with_the_end_of_a_zip_file_is_what_torch_reads(tmp_path):
    state = dict(backbone().state_dict())
    as_legacy(state, tmp_path / 'a.pth')
    with (tmp_path / 'a.pth').open('ab') as file:
        file.write(b'PK\x05\x06' + bytes(18))
    assert zipfile.is_zipfile(tmp_path / 'a.pth')
    assert_equal(read_file(tmp_path / 'a.pth'), state)


def test_a_zip_file_with_something_before_it_is_refused(tmp_path):
    torch.save(dict(backbone().state_dict()), tmp_path / 'a.pth')
    (tmp_path / 'a.pth').write_bytes(b'#!/bin/sh\n' + (tmp_path / 'a.pth').read_bytes())
    with pytest.raises(ValueError, match=r'a.pth \(a zip file with something else before it\)$'):
        read_file(tmp_path / 'a.pth')


@pytest.mark.parametrize('damaged', [
    b'\x80\x02\x89)R.',  # False()
    b'\x80\x02}(X\x01\x00\x00\x00aK\x01)Ru.', b'\x80\x02cto\xc3rch\n_x\n)R.', b'\x80\x02c 4\n_%\n)R.',
    b'\x80\x02ccollections\nOrderedD\n)R.', b'\x80\x02c__builtin__\neva\n)R.'])
def test_a_damaged_pickle_is_not_taken_for_code(damaged, tmp_path):
    as_legacy(dict(a=torch.ones(3)), tmp_path / 'a.pth')
    data = (tmp_path / 'a.pth').read_bytes()
    start = data.index(b'.', data.index(b'long') + 1) + 1  # the third pickle: after magic number, version, system
    (tmp_path / 'a.pth').write_bytes(data[:start] + damaged)
    with pytest.raises(ValueError, match='must be a whole file that torch.save wrote') as error:
        read_file(tmp_path / 'a.pth')
    assert 'code in a file' not in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['b.pth', 'b.safetensors'])
def test_a_sign_taken_when_a_tensor_is_read_is_kept(name, tmp_path):
    state = backbone().state_dict()
    state['norm1.bias'] = torch._neg_view(-state['norm1.bias'])
    conjugate = torch.view_as_complex(torch.ones(4, 8, 2)).conj().imag  # a part of it is negative when read
    assert state['norm1.bias'].is_neg() and conjugate.is_neg()
    torch.save(dict(state), tmp_path / 'a.pth')
    assert convert_checkpoint.main([str(tmp_path / 'a.pth'), str(tmp_path / name)]) == 0
    written = read_file(tmp_path / name)
    assert_equal(written.get('state_dict', written), backbone().state_dict())
    write_file(tmp_path / name, dict(a=conjugate))
    assert torch.equal(read_file(tmp_path / name)['a'], -torch.ones(4, 8))


@pytest.mark.parametrize('umask, mode', [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors'])
def test_a_file_has_the_mode_of_a_new_file(name, umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        for _ in range(2):
            write_file(tmp_path / name, dict(a=torch.ones(2)))
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode
            (tmp_path / name).chmod(0o640)
    finally:
        os.umask(before)


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'pickle'])
@pytest.mark.parametrize('way', WAYS)
def test_code_is_never_run(way, kind, tmp_path):
    """``mim test`` is another way: ``test_distributed.py``."""
    path, marker = tmp_path / 'evil.pth', tmp_path / 'ran'
    evil(path, marker, kind, toy.Toy().state_dict())
    with pytest.raises((ValueError, pickle.UnpicklingError), match='evil.pth'):
        way(path, tmp_path)
    assert not marker.exists()
    pickle.loads(path.read_bytes()) if kind == 'pickle' else torch.load(path, weights_only=False)  # a real payload
    assert marker.exists()


@pytest.mark.parametrize('harm', [cut, flip])
@pytest.mark.parametrize('way', WAYS)
def test_damage_is_one_clear_error(way, harm, tmp_path):
    path = tmp_path / 'run' / 'iter_2.pth'
    if way in (init_cfg, convert, read_as_before_torch_2_6):
        path.parent.mkdir()
        torch.save(dict(state_dict={f'backbone.{k}': v for k, v in backbone().state_dict().items()}), path)
    else:
        toy.runner(tmp_path / 'run', iters=2).train()
    harm(path)
    with pytest.raises(ValueError, match='iter_2.pth.*(damaged|whole)|(damaged|whole).*iter_2.pth'):
        way(path, tmp_path)


@pytest.mark.parametrize('objects', [safe_globals(), files.STAND_INS])
def test_before_torch_2_6_a_run_is_read_as_since(objects, tmp_path):
    toy.runner(tmp_path, iters=2, hook='CheckpointHook').train()
    old, new = (load(str(tmp_path / 'iter_2.pth'), objects)
                for load in (files.unpickle_before_torch_2_6, files.unpickle))
    assert old.keys() == new.keys() and old['meta'] == new['meta']
    assert torch.equal(old['state_dict']['layer.weight'], new['state_dict']['layer.weight'])
    history = [c['message_hub']['log_scalars']['train/loss'] for c in (old, new)]
    if objects is files.STAND_INS:
        assert all(type(one) is files.StandIn for one in history)
    else:
        assert history[0].mean() == history[1].mean() and history[0].statistics('current') > 0
