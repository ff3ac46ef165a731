"""Where the memory of a training step goes, computed from sizes alone.

Counted is what torch keeps for the backward pass. Per block, in units of T C elements, and with r the ratio of the MLP:
the input of the projection to queries, keys and values (1), these (3), the result of attention (1), the result of its
projection (1), the input of the MLP (1) and its result (1). That is 8 in all, besides small tensors: log-sum-exp,
statistics of norms, hidden map of the position bias. An MLP also keeps its hidden map before and after the GELU (2r),
if that map is small or the stage has activation checkpointing. ``eager`` attention also keeps its attention maps. With
activation checkpointing a block keeps its input (1), and the rest exists for one block at a time. Frozen stages keep
nothing. Memory that the allocator holds without need is not counted.

Weights, gradients and optimizer states come from :mod:`mmswinv2.core.sharding`; what neck and heads keep is an input.
A step is a sequence of moments, and the plan describes the one with the peak.

Legend: B images, T tokens of a stage in all images, C channels, nH heads.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from .attention.backends import default_budget, is_small
from .layers import is_kept, mlp_rows
from .sharding import Sharding
from .sizes import BlockSizes, StageSizes


@dataclass(frozen=True)
class Setting:
    """How the backbone is computed.

    Args:
        with_cp: Activation checkpointing, per stage.
        backend: Of attention; ``'eager'`` keeps whole attention maps, ``'cells'`` needs its budget, ``'auto'``
            chooses per block.
        budget: Bytes for attention; None for the device's default.
        autocast: Mixed precision: weights and the residual stream in float32, matrix products in a 16-bit type.
        cast_cache: Whether autocast keeps all 16-bit copies of weights until the backbone's forward pass ends, as it
            does by default.
        frozen_stages: As the backbone's: -1 nothing, 0 the patch embedding, i that and the first i stages.
        outputs: Stages whose map is returned.
        device: ``'cpu'`` or ``'cuda'``: which backend ``'auto'`` takes, and the chunks of MLPs, depend on it.
    """

    with_cp: tuple[bool, ...]
    backend: str = 'auto'
    budget: int | None = None
    autocast: bool = False
    cast_cache: bool = False
    frozen_stages: int = -1
    outputs: tuple[int, ...] = ()
    device: str = 'cuda'


@dataclass(frozen=True)
class Model:
    """The model beside its blocks, in numbers of parameters and in bytes.

    Args:
        parameters: Of the backbone.
        trainable: Those of the backbone that are not frozen.
        others: Parameters of neck and heads.
        others_trainable: Those of neck and heads that are not frozen.
        units: Parameters of each layer outside the backbone that FSDP shards by itself.
        heads_kept: Bytes that neck and heads keep for the backward pass.
        heads_peak: Peak bytes of neck and heads.
        neck_peak: Their peak bytes from when the backward pass reaches ``units``.
        image_bytes: Bytes of the batch's images.
    """

    parameters: int
    trainable: int
    others: int = 0
    others_trainable: int = 0
    units: tuple[int, ...] = ()
    heads_kept: int = 0
    heads_peak: int = 0
    neck_peak: int = 0
    image_bytes: int = 0


@dataclass(frozen=True)
class Moment:
    """Bytes at a moment of a step, beside those allocated all the time.

    Args:
        name: ``'forward'``, ``'heads'``, ``'backward'``, ``'averaging'`` of gradients, or ``'step'`` of the optimizer.
        activations: Of the backbone.
        gradients: Of weights, beside buckets.
        gathered: Weights and gradients that are temporarily whole.
        workspace: Needed at this moment only.
    """

    name: str
    activations: int = 0
    gradients: int = 0
    gathered: int = 0
    workspace: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.activations + self.gradients + self.gathered + self.workspace


@dataclass(frozen=True)
class Plan:
    """Bytes of a training step on one GPU.

    Args:
        weights: Allocated all the time.
        gradients: All of them, with buckets.
        optimizer: Its states.
        gathered: Weights and gradients gathered from other GPUs, at the peak.
        activations: Kept for the backward pass when the forward pass has ended, per stage.
        heads: Kept by neck and heads.
        workspace: Needed at the peak only: recomputed activations, their gradients, attention, the optimizer's
            temporaries.
        peak: The largest total at any moment; less than the sum of the parts, which do not peak together.
        moment: When the peak is.
    """

    weights: int
    gradients: int
    optimizer: int
    gathered: int
    activations: tuple[int, ...]
    heads: int
    workspace: int
    peak: int
    moment: str


@dataclass(frozen=True)
class _Block:
    """Bytes of a block under a setting: kept for the backward pass, needed besides by its forward and its backward
    pass, 16-bit copies of its weights, and the copies that the autograd graph holds."""

    sizes: BlockSizes
    kept: int
    forward: int
    backward: int
    copies: int
    copies_kept: int


@dataclass(frozen=True)
class _Stage:
    """Bytes of a stage under a setting: kept before its blocks and after them, its output, its gradient, blocks."""

    before: int
    after: int
    output: int
    gradient: int
    blocks: tuple[_Block, ...]

    @cached_property
    def kept(self) -> int:
        """For the backward pass, with 16-bit copies of weights."""
        return self.before + self.after + self.output + sum(block.kept + block.copies_kept for block in self.blocks)


def _block(s: BlockSizes, setting: Setting, *, cp: bool, frozen: bool) -> _Block:
    """Computes the bytes of a block; locals are in units of T C float32 elements.

    Under autocast the stream, inputs of norms and what ``eager`` makes of a group of cells are float32, the rest
    16-bit: ``half``.
    """
    unit, half = 4 * s.tokens * s.dim, .5 if setting.autocast else 1.
    attended, hidden = s.attended / s.tokens, s.hidden / s.dim * half  # one hidden map
    budget = default_budget(torch.device(setting.device)) if setting.budget is None else setting.budget
    whole = setting.backend == 'eager' or (
        setting.backend == 'auto' and is_small(setting.device, sum(s.maps), budget))
    maps, pairs = sum(s.maps) / unit, s.pairs / unit
    whole_bias = 2 * s.bias_hidden <= budget  # else it is made in chunks, again in the backward pass
    bias = (s.bias + (s.bias_hidden if whole_bias else 0)) / unit
    remade = 0. if whole_bias else budget / unit
    row = round(4 * half) * s.hidden  # bytes of a hidden map
    rows = mlp_rows(torch.device(setting.device), row)
    chunked = not cp and not is_kept(torch.device(setting.device), s.tokens * row)
    chunk = hidden * min(1., rows / s.tokens)
    padded = half if attended > 1 else 0  # the part of the result without padding

    # kept: queries, keys and values; the result of attention; inputs of projections, MLP and norms; hidden maps
    qkv = 3 * half * attended + (maps if whole else 0.)
    out = half * attended + padded if not whole else half
    small = (2 if whole else 1) * s.heads * attended / s.dim + 4 / s.dim
    mlp_input = 1. if chunked else half  # chunks are cast as they are computed
    hiddens = 0. if chunked else 2 * hidden
    rest = 1 + mlp_input + 1 + hiddens
    saved = half + qkv + out + rest + small + bias

    # backward: the MLP; attention, when the rest is gone; the position bias, when attention is gone too
    mlp = half + 1 + 3 * chunk if chunked else half + hidden
    if whole:  # gradients of queries, keys and values; of a group, cells, their gradients and two maps or two products
        most = max(7 * attended * size / sum(s.maps) + max(2 * size / unit, 2 * attended * size / sum(s.maps))
                   for size in s.maps)
        attention = 1 - rest - out + half * attended + 3 * half * attended + most
    else:
        workspace = min(budget / unit, 4 * maps + 10 * attended + 2 * pairs)
        if setting.device == 'cuda' and setting.autocast and setting.backend in ('auto', 'torch'):
            workspace += 4 * 3 * half * attended  # queries, keys and values in the order of cells (fused.py)
        attention = 1 + half - rest + 3 * half * attended + workspace
    position = 1 + 3 * half * attended - rest - out - qkv + 2 * bias + remade
    backward = max(mlp, attention, position)
    if cp:  # the block is computed again; its input is there
        backward += saved - (0 if setting.autocast else 1)

    # forward: attention, the MLP, the sum of the stream
    if whole:  # projected, the result; cells of a group, logits and probabilities
        most = max(((0 if cp or frozen else sum(s.maps[:i])) + 2 * size) / unit + 4 * attended * size / sum(s.maps)
                   for i, size in enumerate(s.maps))
        attention = 4 * half * attended + most + pairs
        if not (cp or frozen):
            attention -= qkv + out + rest
    else:
        attention = workspace + (bias + half * (3 * attended + 1) if cp or frozen else -rest)
    ending = 2.
    if cp or frozen:
        ending = 1 + max(2., 1 + 2 * chunk if chunked else 2 * hidden)
    forward = max(attention, ending) + (2 if frozen else 0)  # inputs of block and stage

    copies = 2 * s.matrices if setting.autocast else 0
    kept = 0. if frozen else 1. if cp else saved
    return _Block(s, round(kept * unit), round(forward * unit), 0 if frozen else round(backward * unit), copies,
                  0 if frozen or cp else copies)


def _stage(i: int, stage: StageSizes, setting: Setting) -> _Stage:
    s, frozen, half = stage.blocks[0], i < setting.frozen_stages, .5 if setting.autocast else 1.
    unit = 4 * s.tokens * s.dim
    before, after = 0., 0.
    if i == 0 and setting.frozen_stages < 0:  # pixels, and the patches before their norm
        before = unit + half * 4 * s.tokens * stage.patch
    output = unit if i in setting.outputs else 0
    if not frozen:
        after = output  # the input of its norm
        if stage.merge_parameters:
            after += unit / 2  # the reduction
            if is_kept(torch.device(setting.device), unit):
                after += half * unit  # four tokens side by side
    blocks = tuple(_block(block, setting, cp=setting.with_cp[i], frozen=frozen) for block in stage.blocks)
    return _Stage(round(before), round(after), output, 0 if frozen else output, blocks)


def _moments(sizes: Sequence[StageSizes], stages: Sequence[_Stage], setting: Setting, model: Model,
             sharding: Sharding) -> Iterator[Moment]:
    """The moments of a step, in their order."""
    chain = [s.parameters for stage in sizes for s in stage.blocks] + list(model.units)
    first = max(0, setting.frozen_stages)  # stage with gradients
    root = model.parameters + model.others - sum(chain)
    trainable = model.trainable + model.others_trainable

    def gathered(j: int, *, backward: bool) -> int:
        if j >= len(chain):
            return sharding.root(root, backward=backward)
        below, above = chain[j - 1] if j else 0, chain[j + 1] if j + 1 < len(chain) else 0
        before, after = (above, below) if backward else (below, above)
        return sharding.root(root, backward=backward) + sharding.gathered(chain[j], before=before, after=after,
                                                                          backward=backward)

    kept, copies, copies_kept, j = 0, 0, 0, 0
    for stage in stages:
        kept += stage.before
        for block in stage.blocks:
            kept += block.kept
            copies += block.copies
            held = copies if setting.cast_cache else copies_kept + block.copies
            yield Moment('forward', kept, 0, gathered(j, backward=False), held + block.forward)
            copies_kept += block.copies_kept
            j += 1
        kept += stage.after + stage.output
    kept += copies_kept
    gradients = sharding.gradients(model.others_trainable)
    yield Moment('heads', kept, gradients, sharding.root(root, backward=True), model.heads_peak)
    yield Moment('heads', kept, gradients, gathered(j, backward=True), model.neck_peak)

    # heads have gone back to gradients of outputs; those of frozen stages have none
    kept += sum(stage.gradient - stage.output for stage in stages)
    for i in range(len(sizes) - 1, first - 1, -1):
        kept -= stages[i].after + stages[i].gradient
        for block in reversed(stages[i].blocks):
            j -= 1
            again = block.copies - block.copies_kept
            copying = sharding.copying(block.sizes.matrix, autocast=setting.autocast)
            yield Moment('backward', kept, gradients, gathered(j, backward=True), block.backward + again + copying)
            kept -= block.kept + block.copies_kept
            gradients += sharding.gradients(block.sizes.parameters)
        kept -= stages[i].before
        gradients += sharding.gradients(sizes[i].merge_parameters)
    gradients = sharding.gradients(trainable)
    # the root's gradients, their buffer and that of the first block
    averaging = sharding.root(root, backward=True) + (4 * chain[0] if sharding.strategy == 'fsdp' else 0)
    yield Moment('averaging', 0, gradients, averaging, 0)
    yield Moment('step', 0, gradients, 0, sharding.stepping(trainable))


def plan_step(sizes: Sequence[StageSizes], setting: Setting, model: Model, sharding: Sharding = Sharding()) -> Plan:
    """Finds the peak of a training step: forward, backward and the optimizer's step.

    Args:
        sizes: Of each stage (:func:`mmswinv2.core.sizes.stage_sizes`).
        setting: How the backbone is computed.
        model: The rest of the model.
        sharding: The share of each GPU.
    """
    parameters, trainable = model.parameters + model.others, model.trainable + model.others_trainable
    weights, states, buckets = sharding.weights(parameters), sharding.states(trainable), sharding.buckets(trainable)
    stages = [_stage(i, stage, setting) for i, stage in enumerate(sizes)]
    worst = max(_moments(sizes, stages, setting, model, sharding), key=lambda m: m.total)
    workspace = worst.workspace - (model.heads_kept if worst.name == 'heads' else 0)
    return Plan(weights, buckets + sharding.gradients(trainable), states, worst.gathered,
                tuple(stage.kept for stage in stages), model.heads_kept, max(0, workspace),
                weights + states + buckets + model.image_bytes + worst.total, worst.name)
