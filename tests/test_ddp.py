"""Two processes with gloo: frozen stages, blocks or hidden maps computed again, images of another size in each step."""
import gc
import multiprocessing
import socket
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from helpers import stand_ins
from helpers.backbones import SMALL, randomize
from helpers.versions import needs_torch_2_4
from mmswinv2.core import SwinTransformerV2, layers

pytestmark = pytest.mark.core

SIZES = [(40, 36), (64, 52)]
LIMIT = 120  # seconds


def build(with_cp=True):
    return randomize(SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1), frozen_stages=1, with_cp=with_cp,
                                       drop_path_rate=0.).double())


def divide(net):
    """Shards weights and gradients: each block, and the rest."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    mesh = init_device_mesh('cpu', (2,))
    for stage in net.layers:
        for block in stage.blocks:
            fully_shard(block, mesh=mesh)
    return fully_shard(net, mesh=mesh)


def loss_of(net, step, rank):
    generator = torch.Generator().manual_seed(10 * step + rank)
    x = torch.randn(1, 3, *SIZES[step], generator=generator, dtype=torch.float64)
    return sum(o.square().mean() for o in net(x))


def train(rank, port, folder, how):
    torch.set_num_threads(1)
    if how != 'blocks':
        layers.CHUNK_BYTES_CPU = 7 * 32 * 8  # 7 tokens of the first stage
    dist.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    net = build(with_cp=how == 'blocks')
    calls = []
    net.layers[1].blocks[0].mlp.fc1.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    net = (divide(net) if how == 'hidden maps, fsdp' else DistributedDataParallel(net)).train()  # as mmengine does
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=.01)
    for step in range(2):
        optimizer.zero_grad()
        loss_of(net, step, rank).backward()
        optimizer.step()
    state = getattr(net, 'module', net).state_dict()
    state = {k: v.full_tensor() if hasattr(v, 'full_tensor') else v for k, v in state.items()}
    torch.save(dict(state=state, calls=calls), f'{folder}/{rank}.pth')
    # the group goes after what holds it: ~ProcessGroupGloo joins a thread that may wait for the interpreter's lock
    del net, optimizer
    gc.collect()
    dist.destroy_process_group()


def in_two_processes(function, *args):
    """Runs it in two processes; both are ended at the time limit."""
    multiprocessing.set_forkserver_preload(['torch._dynamo', 'torch.distributed.fsdp', 'mmswinv2.core'])  # once
    context = mp.start_processes(function, args=args, nprocs=2, join=False, start_method='forkserver')
    try:
        if not context.join(LIMIT, grace_period=5):  # returns when one has ended; the other may take a moment
            assert context.join(LIMIT, grace_period=5), f'two processes did not end in {LIMIT} s'
    finally:
        for process in context.processes:
            process.kill()
            process.join()


def fall_back(rank, port, folder):
    """Trains a step in bfloat16, with a kernel that is wrong in the second process only."""
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    net = randomize(SwinTransformerV2(dict(SMALL, embed_dims=32), window_size=4, out_indices=(0, 1), drop_path_rate=0.))
    net = DistributedDataParallel(net.bfloat16())
    with stand_ins.gpu(f'{folder}/{rank}', triton=stand_ins.Wrong(stand_ins.skip if rank else None)) as kernels, \
            warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        for size in SIZES[rank:] + SIZES[:rank]:
            sum(o.float().square().mean() for o in net(torch.ones(1, 3, *size, dtype=torch.bfloat16))).backward()
        said = [str(w.message) for w in seen if 'attn_backend' in str(w.message)]
        calls = [kernels[name].calls for name in ('triton', 'torch')]
    torch.save(dict(said=said, calls=calls, grads=[p.grad for p in net.parameters()]), f'{folder}/{rank}.pth')
    del net
    gc.collect()
    dist.destroy_process_group()


@needs_torch_2_4('ProcessContext.join knows no grace period')
def test_one_of_two_processes_falls_back(tmp_path):
    """It says so with its rank; both stay in step and have the same gradients."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    in_two_processes(fall_back, port, str(tmp_path))
    ours, other = (torch.load(tmp_path / f'{rank}.pth') for rank in range(2))
    assert not ours['said'] and not ours['calls'][1] and other['calls'][1]
    assert other['said'] and all("does not use 'triton' on Stand-in" in text and 'rank 1): out of' in text
                                 and "'torch' is used" in text for text in other['said'])
    assert all(map(torch.equal, ours['grads'], other['grads'])) and any(g.any() for g in ours['grads'])


@needs_torch_2_4('ProcessContext.join knows no grace period')
@pytest.mark.parametrize('how', [
    pytest.param('blocks', marks=pytest.mark.slow), 'hidden maps', pytest.param('hidden maps, fsdp', marks=[
        pytest.mark.slow,
        pytest.mark.skipif(torch.__version__ < (2, 6), reason=f'torch {torch.__version__}: no fully_shard')])])
def test_two_processes_equal_one(how, tmp_path):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    in_two_processes(train, port, str(tmp_path), how)
    net = build().train()
    start = {k: v.clone() for k, v in net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=.01)
    for step in range(2):
        optimizer.zero_grad()
        ((loss_of(net, step, 0) + loss_of(net, step, 1)) / 2).backward()
        optimizer.step()
    frozen = ('patch_embed.', 'layers.0.', 'norm0.')
    for rank in range(2):
        state, calls = torch.load(tmp_path / f'{rank}.pth').values()
        if how != 'blocks':  # 3 tokens at once, forward and backward
            assert len(calls) > 20 and max(calls) == 3
        for k, v in net.state_dict().items():
            torch.testing.assert_close(state[k], v, rtol=1e-10, atol=1e-12)
            moved = not torch.equal(state[k], start[k])
            assert moved == (not k.startswith(frozen) and k != 'pretrained_window_sizes'), k
