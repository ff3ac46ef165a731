"""Counts what Triton would compile in multi-scale training, after some iterations: ``python jit_keys.py RECIPE``.

Triton's own specialisation runs on each launch, for a driver that stands in for an H100's. Nothing is compiled: a
launch that needs a variant which is not there ends where compilation would begin, and is counted by its key.
"""
import json
import random
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget

from mmswinv2.core.attention.triton import kernels, launch
from mmswinv2.core.grid import Axis

# heads of the first stage, windows by stage, the least and most pixels of the short side, the most of the long side
RECIPES = {'htc_swinv2_l_ms-400-1400': (6, (32, 32, 32, 16), 400, 1400, 1600),
           'cascade-mask-rcnn_swinv2_t': (3, (32, 32, 32, 16), 480, 800, 1333),
           'coco_instance_ms-480-800': (3, (16, 16, 16, 8), 480, 800, 1333)}
COUNTED = 1, 10, 100, 300  # iterations
SEEN, DONE = set(), set()


class StandIn:
    """A driver of Triton without a GPU."""

    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)
    get_current_target = staticmethod(lambda: GPUTarget('cuda', 90, 32))


def hook(*, key, repr, fn, **kwargs):
    """Notes a variant that is not compiled yet; True ends its launch."""
    SEEN.add((fn.name, key))
    return True


def start(kernel, grid, tensors, constants, **kwargs):
    """As ``launch.launch``, also on the meta device."""
    getattr(kernels, kernel)[grid](**tensors, **constants)


def sizes(short, most_short, most, draw):
    """Pixels of images as recipes resize them, padded to a multiple of 32."""
    while True:
        ratio, side = draw.uniform(1, 1.6), draw.randint(short, most_short)
        side = min(side, int(most / ratio))
        pixels = [-(-int(n) // 32) * 32 for n in (side, side * ratio)]
        yield pixels if draw.random() < .5 else pixels[::-1]


def train(pixels, heads, windows):
    """A block of each stage, unshifted and shifted, forward and backward."""
    for i, window in enumerate(windows):
        lengths, nh = [n // (4 << i) for n in pixels], heads << i
        for shifted in (False, True):
            grid = tuple(Axis.fit(n, window, shifted=shifted) for n in lengths)
            if (grid, nh) in DONE:
                continue
            DONE.add((grid, nh))
            qkv = torch.empty(1, *lengths, 96 * nh, dtype=torch.bfloat16, device='meta')
            weights = (torch.empty(nh, *(2 * axis.window - 1 for axis in grid), device='meta'),
                       torch.empty(nh, 1, 1, device='meta'), None)
            results = launch.forward(qkv, *weights, grid, 0., 2**29)
            launch.backward(results[0], qkv, *weights, *results, grid, 0., 2**29)


def main():
    """Prints the number of variants after each of some numbers of iterations."""
    heads, windows, *limits = RECIPES[sys.argv[1]]
    triton.runtime.driver.set_active(StandIn())
    triton.knobs.runtime.jit_cache_hook = hook
    launch.launch, counts = start, {}
    for i, pixels in zip(range(1, COUNTED[-1] + 1), sizes(*limits, random.Random(0))):
        train(pixels, heads, windows)
        if i in COUNTED:
            counts[i] = len(SEEN)
    print(json.dumps(counts))


if __name__ == '__main__':
    main()
