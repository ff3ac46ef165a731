"""Damages small checkpoints at random and counts what reading them gives, per container.

What is allowed: one line of refusal, or the weights bit by bit. Safetensors and torch's format before 1.6 have no
checksums: other weights that are finite cannot be told from the right ones where the damage is in their numbers.
"""
import io
import random
import re
import time
from collections import Counter
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import save_file

from mmswinv2.core import SwinTransformerV2
from mmswinv2.core.weights import load_backbone, read_backbone_state, read_file

from . import peer_files
from .backbones import SMALL, randomize
from .zips import deflated

SECONDS = 10  # that one damage may take


def backbone(seed):
    """A small backbone with other weights per seed."""
    return randomize(SwinTransformerV2(SMALL, window_size=4, pretrained_window_sizes=4, out_indices=(1,)), seed=seed)


def containers(folder):
    """The same weights in each container."""
    state = dict(backbone(0).state_dict())
    paths = {name: folder / f'{name}.pth' for name in ('own', 'deflated', 'microsoft', 'legacy')}
    paths['safetensors'] = folder / 'a.safetensors'
    torch.save(dict(state_dict=state, meta=dict(epoch=3)), paths['own'])
    deflated(paths['own'], paths['deflated'])
    torch.save(peer_files.microsoft(state, SMALL['depths'], [4, 4], [4, 4]), paths['microsoft'])
    paths['legacy'].write_bytes(legacy(state))
    save_file(state, paths['safetensors'])
    return paths


def legacy(state):
    """The same bytes in each run: torch names tensors by their addresses there, and sorts them by these."""
    file = io.BytesIO()
    with mock.patch('torch.serialization.sorted', list, create=True):
        torch.save(dict(state_dict=state), file, _use_new_zipfile_serialization=False)
    names = {}
    return re.sub(rb'X[\x06-\x14]\0\0\0(\d{6,20})',
                  lambda match: b'X\x0f\0\0\0' + names.setdefault(match[1], b'%015d' % len(names)), file.getvalue())


def begin_of_numbers(container, data):
    """Where the part begins in which damage cannot be seen; at the end where there is no such part."""
    if container == 'safetensors':
        return 8 + int.from_bytes(data[:8], 'little')
    return 0 if container == 'legacy' else len(data) + 1  # there strides and offsets are as blind as numbers


def damage(data, rng):
    """One damage: what is left, what was done, and the last byte that it concerns."""
    kind = rng.choice(['truncate', 'flip', 'swap', 'zero', 'insert'])
    # headers and directories are at the ends and small
    begin, end = rng.choice([(0, len(data)), (0, min(6000, len(data))), (max(0, len(data) - 12000), len(data))])
    at, size = rng.randrange(begin, end), min(rng.choice([1, 2, 4, 8, 30, 64, 500]), len(data))
    out, last = bytearray(data), min(at + size, len(data)) - 1
    if kind == 'truncate':
        del out[at:]
        last = len(data)
    elif kind == 'flip':
        places = [at, *(rng.randrange(begin, end) for _ in range(rng.choice([0, 0, 0, 1, 7])))]
        for place in places:
            out[place] ^= 1 << rng.randrange(8)
        last = max(places)
    elif kind == 'swap':
        other = rng.randrange(begin, end)
        out[at], out[other] = out[other], out[at]
        last = max(at, other)
    elif kind == 'zero':
        out[at:last + 1] = bytes(last + 1 - at)
    else:
        out[at:at] = rng.randbytes(size)
        last = len(data)
    return bytes(out), f'{kind} at {at}', last


def read(path, net, expected):
    """Reads a file into a backbone: ``'refused'``, ``'right'``, ``'undetectable'`` or ``'wrong'``, and why."""
    try:
        load_backbone(net, read_backbone_state(read_file(path)))
    except ValueError as e:
        return ('refused', str(e)) if '\n' not in str(e) else ('wrong', f'more than one line: {e}')
    except BaseException as e:  # the point is that there is no other
        return 'wrong', f'{type(e).__name__}: {e}'
    state = net.state_dict()
    if all(torch.equal(v.view(torch.uint8), expected[k].view(torch.uint8)) for k, v in state.items() if v.ndim):
        return 'right', ''
    finite = all(v.isfinite().all() for v in state.values())
    return 'undetectable' if finite else 'wrong', 'other weights'


def run(folder, number, seed):
    """Counts per container, and a line for each result that is not allowed."""
    counts, failures = {}, []
    net, others, expected = backbone(1), read_backbone_state(backbone(1).state_dict()), backbone(0).state_dict()
    for container, whole in containers(Path(folder)).items():
        data, rng, count = whole.read_bytes(), random.Random(f'{container} {seed}'), Counter()
        assert read(whole, net, expected) == ('right', '')
        path = whole.with_stem('damaged')
        for index in range(number):
            load_backbone(net, others)
            before = time.monotonic()
            damaged, what, last = damage(data, rng)
            path.write_bytes(damaged)
            result, why = read(path, net, expected)
            if result == 'undetectable' and last < begin_of_numbers(container, data):
                result = 'wrong'
            if time.monotonic() - before > SECONDS:
                result, why = 'wrong', f'{time.monotonic() - before:.0f} s'
            if result == 'wrong':
                failures.append(f'{container} {index} ({what}): {why}')
            count[result] += 1
        counts[container] = count
    return counts, failures
