"""What tests share: a small backbone with random weights in float64."""
import os

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1 if 'PYTEST_XDIST_WORKER' in os.environ else 2)
settings.register_profile('tests', derandomize=True, deadline=None, database=None, max_examples=60)
settings.load_profile('tests')

SMALL = dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4])


def randomize(net, seed=0, std=0.3):
    """Gives every parameter a random value, so that no norm is the identity and no bias zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in net.named_parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype) * std
            p.copy_(noise + (1 if 'norm' in name and name.endswith('weight') else 0) +
                    (2 if name.endswith('logit_scale') else 0))
    return net


@pytest.fixture(autouse=True)
def seed():
    """What draws from torch's own generator (drop path, dropout, initial weights) draws the same in each run."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Files are not waited for: under load that takes seconds each. Tests of durability undo this."""
    monkeypatch.setattr('mmswinv2.core.weights.files._sync', lambda path: None)


@pytest.fixture
def rng():
    """A seeded generator of inputs."""
    return torch.Generator().manual_seed(1)
