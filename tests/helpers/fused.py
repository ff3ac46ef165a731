"""The backend ``torch`` on a CPU, for a test."""
import emulated
from mmswinv2.core.attention import torch_fused


def use(monkeypatch):
    """Lets it take tensors on a CPU, by the stand-ins of ``benchmarks/emulated.py``."""
    monkeypatch.setattr(torch_fused, 'device_type', lambda device: 'cuda')
    monkeypatch.setattr(torch_fused, 'fused_forward', emulated.fused_forward)
    monkeypatch.setattr(torch_fused, 'fused_backward', emulated.fused_backward)
