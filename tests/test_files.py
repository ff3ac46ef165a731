"""Files as other tools write them and as users name them: read right, or refused in one clear line."""
import zipfile

import pytest
import torch

from mmswinv2.core.files import read_file
from mmswinv2.models import SwinTransformerV2

import convert_checkpoint
import peer_files
from conftest import SMALL, randomize
from helpers import toy, zips

OPTIONS = dict(window_size=4, pretrained_window_sizes=4, out_indices=(0, 1))


def backbone(seed=0, **options):
    return randomize(SwinTransformerV2(SMALL, **dict(OPTIONS, **options)), seed=seed)


def assert_equal(a, b):
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


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
    net = SwinTransformerV2(SMALL, **OPTIONS, init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    net.init_weights()
    assert_equal({k: v for k, v in net.state_dict().items() if k in kept}, {k: state[k] for k in kept})
    assert convert_checkpoint.main([str(path), str(tmp_path / 'out.pth')]) == 0
    assert_equal(read_file(tmp_path / 'out.pth')['state_dict'], {k: state[k] for k in kept})


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
