"""Where the memory of a training step goes, computed from sizes alone.

What is counted is what torch keeps: per block, with T tokens of C channels in units of T C elements and r the ratio of
the MLP, the input of the projection to queries, keys and values (1), these (3), the result of attention (1), of its
projection (1), the input of the MLP (1), its hidden maps before and after the GELU (r and r) and its result (1):
8 + 2r in all, 16 for r = 4, and 21 at the worst moment of the backward pass. With activation checkpointing a block
keeps its input (1), and the rest exists for one block at a time. The ``eager`` backend keeps attention maps
besides, two of them per block, and has four at the worst moment. Frozen stages keep nothing. What an allocator holds on
to without need is not counted.

Weights, gradients and states of the optimizer are those of :mod:`mmswinv2.core.sharding`; what neck and heads keep is
given. A step is a sequence of moments; the plan is that of the worst one.

Legend: B images, T = B H W tokens of a stage, C channels, nH heads, N tokens of a window.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .arch import Arch
from .checks import Window
from .sharding import Sharding

MIB = 2**20


@dataclass(frozen=True)
class Setting:
    """How the backbone is computed.

    Args:
        with_cp: Activation checkpointing, per stage.
        backend: ``'eager'`` keeps whole attention maps; the others need their budget.
        budget_mib: That of ``attn_budget_mib``.
        autocast: Mixed precision: weights and the residual stream in float32, matrix products in a 16-bit type.
        cast_cache: Whether autocast keeps all 16-bit copies of weights until the backbone's forward pass ends, as it
            does by default.
        frozen_stages: As the backbone's: -1 nothing, 0 the patch embedding, i that and the first i stages.
        outputs: Stages whose map is returned.
    """

    with_cp: tuple[bool, ...]
    backend: str = 'auto'
    budget_mib: int = 64
    autocast: bool = False
    cast_cache: bool = False
    frozen_stages: int = -1
    outputs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sizes:
    """One stage: tokens T, without and with padding to windows, channels C, blocks, bytes of an attention map and of
    position bias per block, weights, ratio of the MLP."""

    tokens: int
    padded: int
    dim: int
    depth: int
    attention_map: int
    bias: int
    block_parameters: int
    merge_parameters: int
    mlp_ratio: float = 4.

    @property
    def matrices(self) -> int:
        """Elements of a block's large weights."""
        return int((4 + 2 * self.mlp_ratio) * self.dim**2)


@dataclass(frozen=True)
class Model:
    """What there is beside blocks, in numbers of parameters and in bytes.

    Args:
        parameters: Of the backbone.
        trainable: Those of them that are not frozen.
        others: Of neck and heads.
        others_trainable: Those of them that are not frozen.
        units: Of each layer outside of the backbone that FSDP shards by itself.
        heads_kept: Bytes that neck and heads keep for the backward pass.
        heads_peak: The most that they have at once.
        neck_peak: The most that they have when their backward pass has come to ``units``.
        image_bytes: Of the batch.
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
    """Bytes at a moment of a step, beside what is there all the time.

    Args:
        name: ``'forward'``, ``'heads'``, ``'backward'``, ``'averaging'`` of gradients, or ``'step'`` of the optimizer.
        activations: Of the backbone.
        gradients: Of weights, beside buckets.
        gathered: Weights and gradients that are whole for a while.
        workspace: What is there at this moment only.
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
        weights: There all the time.
        gradients: All of them, with buckets.
        optimizer: Its states.
        gathered: Of others' weights and gradients, at the peak.
        activations: Kept for the backward pass when the forward pass has ended, per stage.
        heads: Kept by neck and heads.
        workspace: What exists at the peak only: what is computed again, gradients of activations, attention,
            temporaries of the optimizer.
        peak: The most there is at once; less than the sum of all, for they are not all there at once.
        moment: When that is.
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


def stage_sizes(arch: Arch, windows: Sequence[Window], height: int, width: int, batch: int, *,
                mlp_ratio: float = 4.) -> list[Sizes]:
    """The sizes of each stage for an image of ``height`` x ``width`` px."""
    sizes = []
    h, w = -(-height // 4), -(-width // 4)
    for i, (dim, depth, heads) in enumerate(zip(arch.dims, arch.depths, arch.num_heads)):
        window = tuple(min(n, size) for n, size in zip((h, w), windows[i]))
        n = window[0] * window[1]
        count = batch * -(-h // window[0]) * -(-w // window[1])
        table = (2 * window[0] - 1) * (2 * window[1] - 1)
        block = int((4 + 2 * mlp_ratio) * dim * dim + (9 + mlp_ratio) * dim + 512 * heads + 1536 + heads)
        merge = 8 * dim * dim + 4 * dim if i + 1 < len(arch.depths) else 0
        sizes.append(Sizes(batch * h * w, count * n, dim, depth, 4 * count * heads * n * n,
                           4 * table * (512 + 4 * heads), block, merge, mlp_ratio))
        h, w = -(-h // 2), -(-w // 2)
    return sizes


@dataclass(frozen=True)
class _Stage:
    """Bytes of a stage under a setting: kept outside of blocks and per block, gradients of its output; what passes in
    a block's forward and backward pass, and 16-bit copies of its weights."""

    outside: int
    block: int
    output: int
    forward: int
    backward: int
    copies: int


def _stage(i: int, s: Sizes, setting: Setting) -> _Stage:
    frozen, cp = i < setting.frozen_stages, setting.with_cp[i]
    r, stream = s.mlp_ratio, 4 * s.tokens * s.dim
    # the mean bytes of what a block keeps; under autocast the input, queries, keys, values, the result of attention
    # (5), the input of the MLP (1) and its hidden maps (2r) are 16-bit
    unit = int(stream * (5 + r) / (8 + 2 * r)) if setting.autocast else stream
    whole, budget = setting.backend == 'eager', setting.budget_mib * MIB
    saved = int((8 + 2 * r) * unit) + s.bias
    if whole:
        saved += 2 * s.attention_map + 8 * 4 * s.padded * s.dim  # and what cutting and normalising keeps
    outside = (0 if i else 2 * stream) if setting.frozen_stages < 0 or i else 0  # the embedded patches, and their norm
    outside += stream if i else 0
    if s.merge_parameters:
        outside += stream + stream // 2  # the four tokens side by side, and the reduction
    out = stream if i in setting.outputs else 0
    if frozen:
        outside, block = 0, 0
    else:
        block = stream if cp else saved
        outside += out  # what the norm of the output keeps
    attention = 4 * s.attention_map + 10 * 4 * s.padded * s.dim if whole else budget
    forward = max(int((2 + 2 * r) * unit), 5 * unit + attention) if cp or frozen else attention
    attention = 2 * s.attention_map + 6 * 4 * s.padded * s.dim if whole else budget
    # first the MLP's part goes, with two hidden gradients; then attention, when 2r + 1 of the 8 + 2r are gone
    backward = (saved if cp else 0) + max(int((1 + r) * unit), attention - int((1 + 2 * r) * unit))
    copies = 2 * s.matrices if setting.autocast else 0
    return _Stage(outside + out, block, 0 if frozen else out, forward, backward, copies)


def _copies_kept(sizes: Sequence[Sizes], stages: Sequence[_Stage], setting: Setting) -> list[int]:
    """16-bit copies of weights that the graph holds, per stage: those of blocks without checkpointing."""
    return [0 if setting.with_cp[i] or i < setting.frozen_stages else stage.copies * s.depth
            for i, (s, stage) in enumerate(zip(sizes, stages))]


def _moments(sizes: Sequence[Sizes], setting: Setting, model: Model, sharding: Sharding) -> Iterator[Moment]:
    """The moments of a step, in their order."""
    stages = [_stage(i, s, setting) for i, s in enumerate(sizes)]
    chain = [s.block_parameters for s in sizes for _ in range(s.depth)] + list(model.units)
    first = max(0, setting.frozen_stages)  # stage with gradients
    root = model.parameters + model.others - sum(chain)
    trainable = model.trainable + model.others_trainable
    copied = _copies_kept(sizes, stages, setting)

    def gathered(j: int, *, backward: bool) -> int:
        if j >= len(chain):
            return sharding.root(root, backward=backward)
        below, above = chain[j - 1] if j else 0, chain[j + 1] if j + 1 < len(chain) else 0
        before, after = (above, below) if backward else (below, above)
        return sharding.root(root, backward=backward) + sharding.gathered(chain[j], before=before, after=after,
                                                                          backward=backward)

    kept, copies, j = 0, 0, 0
    for i, (s, stage) in enumerate(zip(sizes, stages)):
        for _ in range(s.depth):
            kept += stage.block
            copies += stage.copies
            held = copies if setting.cast_cache else sum(copied[:i]) + stage.copies
            yield Moment('forward', kept, 0, gathered(j, backward=False), held + stage.forward)
            j += 1
        kept += stage.outside
    kept += sum(copied)
    gradients = sharding.gradients(model.others_trainable)
    yield Moment('heads', kept, gradients, sharding.root(root, backward=True), model.heads_peak)
    yield Moment('heads', kept, gradients, gathered(j, backward=True), model.neck_peak)

    kept += sum(stage.output for stage in stages)
    for i in range(len(sizes) - 1, first - 1, -1):
        s, stage = sizes[i], stages[i]
        again = stage.copies if setting.with_cp[i] else 0
        copying = sharding.copying(int(s.mlp_ratio * s.dim**2), autocast=setting.autocast)
        for _ in range(s.depth):
            j -= 1
            yield Moment('backward', kept, gradients, gathered(j, backward=True), stage.backward + again + copying)
            kept -= stage.block + copied[i] // s.depth
            gradients += sharding.gradients(s.block_parameters)
        kept -= stage.outside + stage.output
        gradients += sharding.gradients(s.merge_parameters)
    gradients = sharding.gradients(trainable)
    # the root's gradients, their buffer and that of the first block
    averaging = sharding.root(root, backward=True) + (4 * chain[0] if sharding.strategy == 'fsdp' else 0)
    yield Moment('averaging', 0, gradients, averaging, sharding.reducing(trainable))
    yield Moment('step', 0, gradients, 0, sharding.stepping(trainable))


def plan_step(sizes: Sequence[Sizes], setting: Setting, model: Model, sharding: Sharding = Sharding()) -> Plan:
    """Follows a training step, forward, backward and the optimizer's, and finds its peak.

    Args:
        sizes: Of each stage (:func:`stage_sizes`).
        setting: How the backbone is computed.
        model: What there is beside blocks.
        sharding: What each GPU holds.
    """
    parameters, trainable = model.parameters + model.others, model.trainable + model.others_trainable
    weights, states, buckets = sharding.weights(parameters), sharding.states(trainable), sharding.buckets(trainable)
    moments = list(_moments(sizes, setting, model, sharding))
    worst = max(moments, key=lambda m: m.total)
    stages = [_stage(i, s, setting) for i, s in enumerate(sizes)]
    copied = _copies_kept(sizes, stages, setting)
    activations = tuple(stage.outside + stage.block * s.depth + c for stage, s, c in zip(stages, sizes, copied))
    workspace = worst.workspace - (model.heads_kept if worst.name == 'heads' else 0)
    return Plan(weights, buckets + sharding.gradients(trainable), states, worst.gathered, activations,
                model.heads_kept, max(0, workspace), weights + states + buckets + model.image_bytes + worst.total,
                worst.name)
