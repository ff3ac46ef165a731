"""A small model trained by a strategy of mmengine, in one process or, as a script, in several with gloo:
``zero.py WORK_DIR STAGE COUNTS FIRST LAST BATCH RESUME``, with RANK and its like set.

Sample ``r`` of step ``s`` is that of process ``r``; a process with BATCH 2 has both, and so the mean of their losses.
"""
import os
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from torch import nn

TESTS = Path(__file__).parents[1]
LIMIT = 240  # seconds for a run of all its processes


def build():
    """A backbone with a frozen stage and a head, random weights."""
    from mmswinv2.models import SwinTransformerV2

    class Model(BaseModel):

        def __init__(self):
            super().__init__()
            self.backbone = SwinTransformerV2(
                dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4]), window_size=4, out_indices=(0, 1), frozen_stages=0,
                with_cp=True, drop_path_rate=0.)
            self.head = nn.Linear(16, 3)

        def forward(self, inputs, mode='loss'):
            low, high = self.backbone(inputs)
            out = self.head(high.mean((2, 3)))
            return dict(loss=out.square().mean() + low.square().mean() + (1 - out).abs().mean())

    torch.manual_seed(0)
    model = Model()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * .1)
    return model


def data(step, samples):
    """A batch of the samples of a step."""
    images = [torch.randn(3, 40, 36, generator=torch.Generator().manual_seed(10 * step + i)) for i in samples]
    return dict(inputs=torch.stack(images))


def train(strategy, *, counts, first, last, samples, resume=None):
    """Trains steps ``first`` to ``last``, saves each second step, and returns the strategy."""
    strategy.prepare(
        build(),
        optim_wrapper=dict(
            type='OptimWrapper', constructor='mmswinv2.SwinOptimWrapperConstructor',
            paramwise_cfg=dict(backbone_lr_mult=.5, layer_decay_rate=.9), accumulative_counts=counts,
            clip_grad=dict(max_norm=.5), optimizer=dict(type='AdamW', lr=1e-3, weight_decay=.05, fused=True)),
        param_scheduler=[dict(type='LinearLR', start_factor=.1, by_epoch=False, begin=0, end=3)],
        dispatch_kwargs=dict(max_iters=4, max_epochs=1, epoch_length=4,
                             train_micro_batch_size_per_gpu=len(samples)))
    if resume:
        assert strategy.resume(resume)['meta']['iter'] == first
    strategy.squares = []  # of this process's part of the gradients, at each step
    strategy.optim_wrapper.optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: strategy.squares.append(
        sum(float(p.grad.square().sum()) for g in optimizer.param_groups for p in g['params'] if p.grad is not None)))
    for step in range(first, last):
        strategy.model.train_step(data(step, samples), optim_wrapper=strategy.optim_wrapper)
        for scheduler in strategy.param_schedulers:
            scheduler.step()
        if step % 2:
            strategy.save_checkpoint(f'{strategy.work_dir}/iter_{step + 1}.pth',
                                     extra_ckpt=dict(meta=dict(iter=step + 1, epoch=0)))
    return strategy


def run_processes(script, *args, processes, env=None):
    """Runs a script in several processes with one limit of time; returns what each wrote.

    Raises:
        AssertionError: if one fails or the time is over, with the end of what they wrote.
    """
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    common = dict(os.environ, MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), WORLD_SIZE=str(processes),
                  DS_ACCELERATOR='cpu', OMP_NUM_THREADS='1', PYTHONPATH=f'{TESTS.parent}:{TESTS}', **env or {})
    children = [subprocess.Popen([sys.executable, str(script), *map(str, args)], stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True, env=dict(common, RANK=str(r), LOCAL_RANK=str(r)))
                for r in range(processes)]
    until, texts = time.monotonic() + LIMIT, []
    try:
        for child in children:
            texts.append(child.communicate(timeout=max(1, until - time.monotonic()))[0])
    except subprocess.TimeoutExpired:
        pass
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert len(texts) == processes and all(c.returncode == 0 for c in children), [t[-3000:] for t in texts]
    return texts


def main():
    """One of the processes."""
    from mmswinv2.engine import DeepSpeedStrategy
    work_dir, stage, counts, first, last, batch, *resume = sys.argv[1:]
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', timeout=timedelta(seconds=120))
    rank = torch.distributed.get_rank()
    strategy = train(
        DeepSpeedStrategy(zero_optimization=dict(stage=int(stage)), work_dir=work_dir,
                          env_kwargs=dict(launcher='pytorch', randomness=dict(seed=0))),
        counts=int(counts), first=int(first), last=int(last), resume=resume[0] if resume else None,
        samples=(0, 1) if batch == '2' else (rank,))
    # what each process holds of the optimizer's state, in elements, of all parameters that it trains
    held = sum(v.numel() for s in strategy.optim_wrapper.optimizer.optimizer.state.values() for v in s.values())
    print(f'held {held} {sum(p.numel() for g in strategy.optim_wrapper.params for p in g)}')
    norm = MessageHub.get_current_instance().get_scalar('train/grad_norm').current()
    print(f'steps {len(strategy.squares)} norm {norm} squares {strategy.squares[-1]}')
    strategy.model.destroy()
    del strategy
    torch.distributed.destroy_process_group()


if __name__ == '__main__':
    main()
