"""A CPU that stands for a GPU whose kernels must prove themselves; kernels that are wrong, each in its way."""
import itertools
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch

import emulated
from mmswinv2.core.attention import backends, cells, proof
from mmswinv2.core.attention.operator import KERNELS, Kernel
from mmswinv2.core.attention.triton import launch

CALLS = itertools.count(1)


def swap(out, lse):
    """An index that is off by one."""
    out[:, 3, 2:4] = out[:, 3, 2:4].flip(1)


def skip(out, lse):
    """The last token is not written."""
    out[:, -1, -1] = 0


def skip_gradients(grad_qkv, grad_table, grad_scale):
    """Keys of one head in the first row of tokens get no gradient; C is 32 and there are two heads."""
    grad_qkv[:, 0, :, 32:48] = 0


def nan(grad_qkv, grad_table, grad_scale):
    """Not a number."""
    grad_scale.view(-1)[-1] = float('nan')


def shrink(grad_qkv, grad_table, grad_scale):
    """One group of cells is not summed."""
    grad_table.mul_(.9)


def no_compiler(*results):
    """What Triton raises in an image without one."""
    raise RuntimeError('Failed to find C compiler. Please specify via CC environment variable.\nMore.')


def race(out, lse):
    """Other bits at each call."""
    out[0, 0, 0, 0] *= 1 + next(CALLS) / 64


class Wrong:
    """``cells`` with a fault in what it returns; counts its calls."""

    def __init__(self, forward=None, backward=None):
        self.forward, self.backward, self.calls = forward, backward, 0

    @property
    def kernel(self):
        """For the table of kernels."""
        return Kernel(lambda *args: self._run(cells.forward, self.forward, args),
                      lambda *args: self._run(cells.backward, self.backward, args))

    def _run(self, function, fault, args):
        self.calls += 1
        results = function(*args)
        if fault is not None:
            fault(*results)
        return results


@contextmanager
def gpu(cache, **kernels):
    """Within, ``auto`` has kernels on a CPU in 16 bit that are not yet proved: right ones, or those that are given."""
    kernels = {name: kernels.get(name, Wrong()) for name in backends.IN_16_BIT[:-1]}
    with ExitStack() as stack:
        for patch in (
                emulated.on_a_cpu(), mock.patch.multiple(launch, MISSING=None, INTERPRETED=True),
                mock.patch.multiple(proof, is_checked=lambda device: True, device_name=lambda device: 'Stand-in',
                                    is_spoiled=lambda device: False, VERDICTS={}),
                mock.patch.object(backends, 'preferred', lambda problem: (*backends.IN_16_BIT, 'eager')),
                mock.patch.dict('os.environ', XDG_CACHE_HOME=str(cache)),
                mock.patch.dict(KERNELS, {name: each.kernel for name, each in kernels.items()})):
            stack.enter_context(patch)
        yield kernels


def attend(**options):
    """Attends on a ragged map in bfloat16; the result and the gradient of queries, keys and values."""
    from helpers.attention import problem
    from mmswinv2.core.attention import window_attention
    tensors, windows = problem((7, 6), (4, 4), num_heads=2, dim=16, dtype=torch.bfloat16)
    out = window_attention(**tensors, **windows, **options)
    return out.detach(), torch.autograd.grad(out.sum(), tensors['qkv'])[0]
