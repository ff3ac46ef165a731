"""Stand-ins for torch's fused kernel, which runs on a GPU only: the formula, rounded where that kernel rounds."""
import math

import torch
import torch.nn.functional as F

from mmswinv2.core.attention import fused


def use(monkeypatch):
    """Lets the backend ``torch`` take tensors on a CPU."""
    monkeypatch.setattr(fused, 'device_type', lambda device: 'cuda')
    monkeypatch.setattr(fused, 'attend', attend)
    monkeypatch.setattr(fused, 'differentiate', differentiate)


def attend(qkv, bias):
    """As :func:`fused.attend`: probabilities before their division are float16, sums float32."""
    check(qkv, bias)
    q, k, v = (x.float().transpose(1, 2) for x in qkv.unbind(2))
    logits = q @ k.mT + bias.float()
    largest = logits.amax(-1, keepdim=True)
    p = (logits - largest).exp()
    total = p.sum(-1, keepdim=True)
    out = (p.half().float() @ v / total).half()
    lse = (largest + total.log())[..., 0]
    return out.transpose(1, 2).contiguous(), F.pad(lse, (0, -lse.shape[-1] % 32), value=math.inf)


def differentiate(grad_out, qkv, bias, out, lse):
    """As :func:`fused.differentiate`: gradients of logits are float16, and so is what comes out."""
    check(qkv, bias)
    n, tokens, _, heads, dim = qkv.shape
    assert grad_out.dtype == out.dtype == torch.float16 and lse.dtype == torch.float32
    for x in (grad_out, out):  # the kernel copies, or takes for granted
        assert x.shape == (n, tokens, heads, dim) and x.is_contiguous()
    assert lse.shape == (n, heads, -(-tokens // 32) * 32) and lse.is_contiguous()
    assert (lse[..., tokens:] == math.inf).all()
    q, k, v = (x.float().transpose(1, 2) for x in qkv.unbind(2))
    grad, out = (x.float().transpose(1, 2) for x in (grad_out, out))
    p = (q @ k.mT + bias.float() - lse[..., :tokens, None]).exp()
    delta = (grad * out).sum(-1, keepdim=True)
    tiles = (p * (grad @ v.mT - delta)).half()
    ds = tiles.float()
    grads = torch.stack([ds @ k, ds.mT @ q, p.half().float().mT @ grad], 2).half()  # (n, nH, 3, N, d)
    assert grads.isfinite().all() and tiles.isfinite().all()
    return grads.permute(0, 3, 2, 1, 4).contiguous(), tiles


def check(qkv, bias):
    """What the kernel wants of its arguments."""
    n, tokens, three, heads, dim = qkv.shape
    assert qkv.dtype == bias.dtype == torch.float16 and three == 3 and dim % 8 == 0
    assert bias.shape == (n, heads, tokens, tokens) and n <= fused.MOST_CELLS
    assert bias.stride(-1) == 1 and all(stride % 8 == 0 for stride in bias.stride()[:-1])
    assert qkv.stride(-1) == 1 and all(stride % 8 == 0 for stride in qkv.stride()[:-1])
