"""The memory planner against tensors that are really alive during a step, and its command line."""
import re
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmswinv2.core import SwinTransformerV2
from mmswinv2.core.memory import Setting, plan_step, stage_sizes

import plan_memory
from conftest import SMALL


class Live(TorchDispatchMode):
    """Bytes of tensors that operators made and that are alive, and the most there were."""

    def __init__(self, *there):
        super().__init__()
        self.live, self.peak = 0, 0
        self.known = {t.untyped_storage()._cdata for t in there}  # views of these are not made anew

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(t, torch.Tensor) and t.untyped_storage()._cdata not in self.known:
                storage = t.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                self.known.add(key)
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self.forget, key, size)
        return out

    def forget(self, key, size):
        self.live -= size
        self.known.discard(key)


def predicted(net, size, batch, cp, backend):
    sizes = stage_sizes(net.arch, net.window_sizes, *size, batch)
    return plan_step(sizes, Setting(cp, backend, 1), parameters=sum(p.numel() for p in net.parameters()),
                     image_bytes=12 * batch * size[0] * size[1], outputs=net.out_indices)


@pytest.mark.parametrize('arch, size, batch, window', [('tiny', (224, 224), 2, 8), ('tiny', (256, 384), 1, 16),
                                                       (dict(SMALL, embed_dims=64), (200, 260), 1, 8)])
@pytest.mark.parametrize('cp, backend', [(False, 'auto'), (True, 'auto'), (False, 'reference'), (True, 'reference')])
def test_the_peak_is_that_of_live_tensors(arch, size, batch, window, cp, backend):
    stages = 4 if arch == 'tiny' else 2
    net = SwinTransformerV2(arch, window_size=window, with_cp=cp, attn_backend=backend, attn_budget_mib=1,
                            drop_path_rate=0., out_indices=tuple(range(stages)))
    x = torch.randn(batch, 3, *size)
    with Live(x, *net.parameters()) as live:
        outs = net(x)
        grads = [torch.ones_like(o) for o in outs]
        torch.autograd.backward(outs, grads)
    peak = live.peak + x.nbytes + sum(p.nbytes for p in net.parameters())
    plan = predicted(net, size, batch, (cp,) * stages, backend)
    print(f'{plan.peak / peak:.3f}')
    assert plan.peak == pytest.approx(peak, rel=.15)


def test_what_is_kept_per_stage():
    """Plain, by hand: one block of T = 64, C = 8 keeps 16 T C and its bias; the patches and the output 2 T C each."""
    net = SwinTransformerV2(dict(embed_dims=8, depths=[1], num_heads=[2]), window_size=4, out_indices=(0,))
    plan = predicted(net, (32, 32), 1, (False,), 'auto')
    assert plan.activations == (4 * 64 * 8 * (16 + 2 + 2) + 4 * 49 * (512 + 8),)
    plan = predicted(net, (32, 32), 1, (True,), 'auto')
    assert plan.activations == (4 * 64 * 8 * (1 + 2 + 2),)


def test_command_line(capsys):
    config = 'configs/mmdet/htc_swinv2_g.py'
    assert plan_memory.main([config, '--gpus', '8', '--zero', '1', '--amp', 'bf16', '--card', '80']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('backbone 2997.9M parameters') and 'ZeRO 1 over 8 GPUs; bf16' in lines[0]
    rows = {line[:25].strip(): line[25:].split() for line in lines[2:7]}
    peaks = {name: float(cells[8]) for name, cells in rows.items()}
    assert peaks['plain, whole maps'] > 4 * peaks['plain'] and peaks['checkpointed'] < peaks['plain']
    assert rows['as in the config'] == rows['checkpointed'] and rows['checkpointed'][-1] == 'fits'
    others = float(re.search(r'the rest ([\d.]+)M', lines[0])[1]) * 1e6
    assert others > 12 * 4096**2  # the layer of global attention, and the heads
    assert float(rows['plain'][2]) == pytest.approx(8 * (2997.9e6 + others) / 8 / 2**30, rel=.01)


@pytest.mark.parametrize('args, message', [
    (['configs/mmdet/htc_swinv2_t.py', '--size', '10'], '--size must be one or two numbers >= 32 px, got [10]'),
    (['configs/mmdet/htc_swinv2_t.py', '--batch', '0'], '--batch must be >= 1, got 0'),
    (['configs/mmdet/_base_/default_runtime.py'], 'CONFIG must have a model.backbone of type'),
    (['nowhere.py'], 'nowhere.py'),
])
def test_bad_input_is_one_line(args, message, capsys):
    assert plan_memory.main(args) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and message in err
