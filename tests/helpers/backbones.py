"""Small backbones with random weights, and the sizes of the published ones."""
import torch

from mmswinv2.core import SwinTransformerV2

SMALL = dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4])
PLAIN = dict(embed_dims=8, depths=[2, 1, 2], num_heads=[2, 4, 4])
DEEP = dict(embed_dims=8, depths=[2, 1, 3], num_heads=[2, 4, 4], extra_norm_every_n_blocks=2)

# backbone with the norm of the last output, in parameters: arXiv:2111.09883 section 3.6 prints them rounded
PARAMETERS = dict(tiny=27.578e6, small=48.959e6, base=86.894e6, large=195.203e6, huge=655.22e6, simmim_giant=1060.98e6,
                  g=2997.84e6)


def randomize(net, seed=0, std=0.3):
    """Gives every parameter a random value, so that no norm is the identity and no bias zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in net.named_parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype) * std
            p.copy_(noise + (1 if 'norm' in name and name.endswith('weight') else 0) +
                    (2 if name.endswith('logit_scale') else 0))
    return net


def backbone(arch, seed=0, **options):
    """A backbone of three stages in float64, in evaluation mode; other weights per seed."""
    options = dict(dict(window_size=4, pretrained_window_sizes=4, out_indices=(0, 1, 2)), **options)
    return randomize(SwinTransformerV2(arch, **options).double().eval(), seed=seed)
