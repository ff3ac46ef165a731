"""What tests share: a small backbone with random weights in float64."""
import pytest
import torch

torch.set_num_threads(2)

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


@pytest.fixture
def rng():
    """A seeded generator of inputs."""
    return torch.Generator().manual_seed(1)
