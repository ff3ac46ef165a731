"""Torch's fused kernel, which runs on a GPU only, emulated on a CPU: the formula, rounded where that kernel rounds.

It stands in for ``fused_forward`` and ``fused_backward`` of :mod:`mmswinv2.core.attention.torch_fused`.
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from mmswinv2.core.attention import torch_fused


@contextmanager
def on_a_cpu() -> Iterator[None]:
    """Within, the backend ``torch`` takes tensors on a CPU."""
    with mock.patch.multiple(torch_fused, device_type=lambda device: 'cuda', fused_forward=fused_forward,
                             fused_backward=fused_backward):
        yield


def fused_forward(qkv: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities before their division are float16, sums float32."""
    check(qkv, bias)
    v = qkv[:, :, 2].float().transpose(1, 2)
    logits = logits_of(qkv, bias)
    largest = logits.amax(-1, keepdim=True)
    p = (logits - largest).exp()
    total = p.sum(-1, keepdim=True)
    out = (p.half().float() @ v / total).half()
    lse = (largest + total.log())[..., 0]
    return out.transpose(1, 2).contiguous(), F.pad(lse, (0, -lse.shape[-1] % 32), value=math.inf)


def fused_backward(grad_out: Tensor, qkv: Tensor, bias: Tensor, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of logits are float16, and so is what comes out."""
    check(qkv, bias)
    n, tokens, _, heads, dim = qkv.shape
    assert grad_out.dtype == out.dtype == torch.float16 and lse.dtype == torch.float32
    for x in (grad_out, out):  # the kernel copies, or takes for granted
        assert x.shape == (n, tokens, heads, dim) and x.is_contiguous()
    assert lse.shape == (n, heads, -(-tokens // 32) * 32) and lse.is_contiguous()
    assert (lse[..., tokens:] == math.inf).all()
    q, k, v = (x.float().transpose(1, 2) for x in qkv.unbind(2))
    grad, out = (x.float().transpose(1, 2) for x in (grad_out, out))
    p = (logits_of(qkv, bias) - lse[..., :tokens, None]).exp()
    delta = (grad * out).sum(-1, keepdim=True)
    tiles = (p * (grad @ v.mT - delta)).half()
    ds = tiles.float()
    grads = torch.stack([ds @ k, ds.mT @ q, p.half().float().mT @ grad], 2).half()  # (n, nH, 3, N, d)
    assert grads.isfinite().all() and tiles.isfinite().all()
    return grads.permute(0, 3, 2, 1, 4).contiguous(), tiles


def logits_of(qkv: Tensor, bias: Tensor) -> Tensor:
    """As in the kernel, float32: (n, N, 3, nH, d) and (n, nH, N, N) to (n, nH, N, N)."""
    q, k = (x.float().transpose(1, 2) for x in qkv[:, :, :2].unbind(2))
    return q @ k.mT + bias.float()


def check(qkv: Tensor, bias: Tensor) -> None:
    """Asserts what the kernel wants of its arguments."""
    n, tokens, three, heads, dim = qkv.shape
    assert qkv.dtype == bias.dtype == torch.float16 and three == 3 and dim % 8 == 0
    assert bias.shape == (n, heads, tokens, tokens) and n <= torch_fused.MOST_CELLS
    assert bias.stride(-1) == 1 and all(stride % 8 == 0 for stride in bias.stride()[:-1])
    assert qkv.stride(-1) == 1 and all(stride % 8 == 0 for stride in qkv.stride()[:-1])
