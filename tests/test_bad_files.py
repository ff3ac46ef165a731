"""Files that hold code or are damaged, by every way that a checkpoint is read: one clear error, and no code is run.

``mim test`` is another such way: ``test_distributed.py``.
"""
import pickle

import pytest
import torch

import convert_checkpoint
from helpers import toy
from helpers.backbones import SMALL
from helpers.bad_files import cut, evil, flip
from mmswinv2.core.weights import unpickle
from mmswinv2.engine import read_run
from mmswinv2.engine.checkpoint import safe_globals
from mmswinv2.models import SwinTransformerV2

pytestmark = pytest.mark.mmengine


def backbone(**options):
    return SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1), **options)


def init_cfg(path, tmp_path):
    backbone(init_cfg=dict(type='Pretrained', checkpoint=str(path))).init_weights()


def convert(path, tmp_path):
    if convert_checkpoint.main([str(path), str(tmp_path / 'out.pth')]):
        raise ValueError('refused')  # what it says is on stderr


def load_from(path, tmp_path):
    toy.runner(tmp_path / 'work', iters=2, load_from=str(path)).train()


def resume_named(path, tmp_path):
    toy.runner(tmp_path / 'work', iters=8, load_from=str(path), resume=True).train()


def resume_last(path, tmp_path):
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work' / 'last_checkpoint').write_text(str(path))
    toy.runner(tmp_path / 'work', iters=8, resume=True).train()


def read_as_before_torch_2_6(path, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unpickle, 'load', unpickle.load_before_torch_2_6)
        read_run(path)


WAYS = [read_as_before_torch_2_6, init_cfg, convert, load_from, resume_named, resume_last]


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'pickle'])
@pytest.mark.parametrize('way', WAYS)
def test_code_is_never_run(way, kind, tmp_path, capsys):
    path, marker = tmp_path / 'evil.pth', tmp_path / 'ran'
    evil(path, marker, kind, toy.Toy().state_dict())
    with pytest.raises((ValueError, pickle.UnpicklingError)) as error:
        way(path, tmp_path)
    said = f'{error.value} {capsys.readouterr().err}'
    assert 'evil.pth' in said and not marker.exists()
    pickle.loads(path.read_bytes()) if kind == 'pickle' else torch.load(path, weights_only=False)  # a real payload
    assert marker.exists()


@pytest.mark.parametrize('harm', [cut, flip])
@pytest.mark.parametrize('way', WAYS)
def test_damage_is_one_clear_error(way, harm, tmp_path, capsys):
    path = tmp_path / 'run' / 'iter_2.pth'
    if way in (init_cfg, convert, read_as_before_torch_2_6):
        path.parent.mkdir()
        torch.save(dict(state_dict={f'backbone.{k}': v for k, v in backbone().state_dict().items()}), path)
    else:
        toy.runner(tmp_path / 'run', iters=2).train()
    harm(path)
    with pytest.raises(ValueError) as error:
        way(path, tmp_path)
    said = f'{error.value} {capsys.readouterr().err}'
    assert 'iter_2.pth' in said and ('damaged' in said or 'whole' in said)


@pytest.mark.parametrize('objects', [safe_globals(), unpickle.STAND_INS])
def test_before_torch_2_6_a_run_is_read_as_since(objects, tmp_path):
    toy.runner(tmp_path, iters=2, hook='CheckpointHook').train()
    old, new = (load(str(tmp_path / 'iter_2.pth'), objects) for load in (unpickle.load_before_torch_2_6, unpickle.load))
    assert old.keys() == new.keys() and old['meta'] == new['meta']
    assert torch.equal(old['state_dict']['layer.weight'], new['state_dict']['layer.weight'])
    history = [c['message_hub']['log_scalars']['train/loss'] for c in (old, new)]
    if objects is unpickle.STAND_INS:
        assert all(type(one) is unpickle.StandIn for one in history)
    else:
        assert history[0].mean() == history[1].mean() and history[0].statistics('current') > 0
