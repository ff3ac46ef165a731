"""What strategies refuse, and what they do with one process."""
import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine.dist import init_dist
from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from mmengine.runner._flexible_runner import FlexibleRunner
from torch import nn

import mmswinv2.engine.setup  # noqa: F401
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


@pytest.fixture
def group(monkeypatch):
    """A process group of this process alone."""
    monkeypatch.setenv('LOCAL_RANK', '0')
    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason='for machines without a GPU')


@WITHOUT_GPU
@pytest.mark.parametrize('value', [True, False])
def test_find_unused_parameters_at_the_top_of_a_config(value, group):
    """Beside ``model_wrapper_cfg`` and in a strategy, too; others do not have it; on a CPU, batch norm is local."""
    runner = SimpleNamespace(cfg=dict(find_unused_parameters=value), distributed=True)
    def model():
        return nn.Sequential(nn.Linear(2, 2), nn.SyncBatchNorm(2))
    wrapped = Runner.wrap_model(runner, dict(gradient_as_bucket_view=True), model())
    assert wrapped.find_unused_parameters is value and wrapped.gradient_as_bucket_view
    assert wrapped(torch.ones(3, 2)).shape == (3, 2)
    zero, sharded = (
        FlexibleRunner.build_strategy(runner, bare(ZeroStrategy, model_wrapper=dict(type=kind), sync_bn=None))
        for kind in ('MMDistributedDataParallel', 'MMFullyShardedDataParallel'))
    assert zero._wrap_model(model()).find_unused_parameters is value
    assert sharded.model_wrapper == dict(type='MMFullyShardedDataParallel')


LAUNCHERS = dict(
    pytorch=dict(RANK=1, LOCAL_RANK=1, WORLD_SIZE=2, MASTER_ADDR='localhost', MASTER_PORT=29500),
    mpi=dict(OMPI_COMM_WORLD_LOCAL_RANK=1, OMPI_COMM_WORLD_RANK=1, OMPI_COMM_WORLD_SIZE=2),
    slurm=dict(SLURM_PROCID=1, SLURM_NTASKS=2, SLURM_NODELIST='a', SLURM_LOCALID=1))


@pytest.mark.parametrize('launcher', LAUNCHERS)
@pytest.mark.parametrize('backend', ['nccl', 'gloo', 'mpi'])
@WITHOUT_GPU
def test_launchers_start_processes_on_cpus(launcher, backend, monkeypatch):
    started = []
    for name, value in (LAUNCHERS['pytorch'] | LAUNCHERS[launcher]).items():  # the others set the first's
        monkeypatch.setenv(name, str(value))
    set_device = torch.cuda.set_device
    monkeypatch.setattr(torch.distributed, 'init_process_group', lambda **kwargs: started.append(kwargs['backend']))
    init_dist(launcher, backend)
    assert started == ['gloo' if backend == 'nccl' else backend] and torch.cuda.set_device is set_device


def test_averages_are_refused_where_they_would_be_lost():
    runner = FlexibleRunner.__new__(FlexibleRunner)
    runner._hooks = [EMAHook()]
    with pytest.raises(ValueError, match='custom_hooks must not have EMAHook with a strategy'):
        IterBasedTrainLoop(runner, {}, max_iters=1)
