"""What strategies refuse, and what they do with one process."""
import sys

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.runner._flexible_runner import FlexibleRunner
from torch import nn

from mmswinv2.engine import FSDPStrategy, IterBasedTrainLoop, ZeroStrategy
from mmswinv2.registry import STRATEGIES

pytestmark = pytest.mark.mmengine


def bare(cls, **attributes):
    """One without a process group and a logger."""
    strategy = cls.__new__(cls)
    strategy.__dict__.update(attributes)
    return strategy


def test_they_are_found_by_name():
    assert STRATEGIES.get('mmswinv2.FSDPStrategy') is FSDPStrategy
    assert STRATEGIES.get('mmswinv2.ZeroStrategy') is ZeroStrategy


@pytest.mark.parametrize('cls', [FSDPStrategy, ZeroStrategy])
def test_one_process_has_the_model_as_it_is(cls):
    model = nn.Sequential(nn.Linear(2, 2), nn.SyncBatchNorm(2))
    wrapped = bare(cls)._wrap_model(model)
    assert type(wrapped) is nn.Sequential and not isinstance(wrapped[1], nn.SyncBatchNorm)
    assert wrapped(torch.ones(3, 2)).shape == (3, 2)


def test_units_must_be_in_the_model():
    with pytest.raises(ValueError, match=r"strategy.units must name classes of modules of the model, got \['Block'\]"):
        bare(FSDPStrategy, units=('Block',), sync_bn=None).divide(nn.Linear(2, 2))


def test_old_torch_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch.distributed.fsdp', None)
    with pytest.raises(ImportError, match='mmswinv2.FSDPStrategy needs torch >= 2.6 .*, got 2'):
        bare(FSDPStrategy, units=('Linear',), sync_bn=None).divide(nn.Linear(2, 2))


def test_averages_are_refused_where_they_would_be_lost():
    runner = FlexibleRunner.__new__(FlexibleRunner)
    runner._hooks = [EMAHook()]
    with pytest.raises(ValueError, match='custom_hooks must not have EMAHook with a strategy'):
        IterBasedTrainLoop(runner, {}, max_iters=1)
