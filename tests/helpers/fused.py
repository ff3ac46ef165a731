"""The backend ``torch`` on a CPU, for a test."""
import emulated
from mmswinv2.core.attention import fused


def use(monkeypatch):
    """Lets it take tensors on a CPU, by the stand-ins of ``benchmarks/emulated.py``."""
    monkeypatch.setattr(fused, 'device_type', lambda device: 'cuda')
    monkeypatch.setattr(fused, 'attend', emulated.attend)
    monkeypatch.setattr(fused, 'differentiate', emulated.differentiate)
