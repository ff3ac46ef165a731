"""Where the memory of a training step of the backbone goes, computed from sizes alone.

What is counted is what torch keeps: per block, with T tokens of C channels in units of T C elements, the input of
the projection to queries, keys and values (1), these (3), the result of attention (1), of its projection (1), the
input of the MLP (1), its hidden maps before and after the GELU (4 and 4) and its result (1): 16 in all, 21 at the
worst moment of the backward pass. With activation checkpointing a block keeps its input (1), and the rest exists for
one block at a time. The ``reference`` backend keeps attention maps besides, two of them per block, and has four at the
worst moment. What an allocator holds on to without need is not counted.

Legend: B images, T = B H W tokens of a stage, C channels, nH heads, N tokens of a window.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .arch import Arch
from .checks import Pair

MIB = 2**20


@dataclass(frozen=True)
class Setting:
    """How a step is computed.

    Args:
        with_cp: Activation checkpointing, per stage.
        backend: ``'reference'`` keeps whole attention maps; the others need their budget.
        budget_mib: That of ``attn_budget_mib``.
        amp: Mixed precision: weights and the residual stream in float32, matrix products in a 16-bit type.
    """

    with_cp: tuple[bool, ...]
    backend: str = 'auto'
    budget_mib: int = 64
    amp: bool = False


@dataclass(frozen=True)
class Sizes:
    """One stage: tokens T, without and with padding to windows, channels C, blocks, bytes of an attention map and of
    position bias per block, weights."""

    tokens: int
    padded: int
    dim: int
    depth: int
    attention_map: int
    bias: int
    block_parameters: int
    merge_parameters: int


def stage_sizes(arch: Arch, windows: Sequence[Pair], height: int, width: int, batch: int, *,
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
                           4 * table * (512 + 4 * heads), block, merge))
        h, w = -(-h // 2), -(-w // 2)
    return sizes


@dataclass(frozen=True)
class Plan:
    """Bytes of a training step, at the moment when they are most.

    Args:
        weights: Parameters, and their 16-bit copies under mixed precision.
        gradients: All of them.
        optimizer: Its states, on this device.
        activations: Kept for the backward pass when the forward pass has ended, per stage.
        workspace: What exists for one block only at the peak: what is computed again, gradients of activations,
            attention.
        peak: All of them together at the worst moment; less than their sum, for they are not all there at once.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: tuple[int, ...]
    workspace: int
    peak: int


def plan_step(sizes: Sequence[Sizes], setting: Setting, *, parameters: int, optimizer_bytes: int = 0,
              gradients_kept: bool = False, image_bytes: int = 0, outputs: Sequence[int] = ()) -> Plan:
    """Follows a training step, forward and backward, and finds its peak.

    Args:
        sizes: Of each stage (:func:`stage_sizes`).
        setting: How the step is computed.
        parameters: Of the backbone, in all.
        optimizer_bytes: Of the optimizer's states on this device, there all the time.
        gradients_kept: Whether gradients of all parameters are there from the start (``zero_grad`` to zero) or come
            one after the other, as with ``set_to_none``.
        image_bytes: Of the batch.
        outputs: Stages whose map is returned; their gradients are there when the backward pass begins.
    """
    weights = parameters * 4 + (parameters * 2 if setting.amp else 0)
    width = 9 / 16 if setting.amp else 1.  # of what a block keeps, measured in float32
    kept = []  # per stage: (bytes kept outside of blocks, bytes kept per block)
    for i, s in enumerate(sizes):
        unit = 4 * s.tokens * s.dim
        outside = unit if i else 2 * unit  # the embedded patches, and what their norm keeps
        if s.merge_parameters:
            outside += unit + unit // 2  # the four tokens side by side, and the reduction
        outside += 2 * unit if i in outputs else 0  # what the norm of the output keeps, and the output
        block = unit if setting.with_cp[i] else int(16 * unit * width) + s.bias
        if setting.backend == 'reference' and not setting.with_cp[i]:
            block += 2 * s.attention_map + 8 * 4 * s.padded * s.dim  # and what cutting and normalising keeps
        kept.append((outside, block))
    activations = tuple(outside + block * s.depth for (outside, block), s in zip(kept, sizes))

    static = weights + optimizer_bytes + image_bytes
    live = static + (4 * parameters if gradients_kept else 0)
    peak, workspace = 0, 0
    whole_maps = setting.backend == 'reference'
    budget = setting.budget_mib * MIB
    for s, (outside, block), cp in zip(sizes, kept, setting.with_cp):  # forward
        unit = 4 * s.tokens * s.dim
        attention = 4 * s.attention_map + 10 * 4 * s.padded * s.dim if whole_maps else budget
        passing = max(int(10 * unit * width), 5 * unit + attention) if cp else attention
        for _ in range(s.depth):
            live += block
            if live + passing > peak:
                peak, workspace = live + passing, passing
        live += outside
    live += sum(4 * sizes[i].tokens * sizes[i].dim for i in outputs)  # gradients of the outputs
    for s, (outside, block), cp in zip(reversed(sizes), reversed(kept), reversed(setting.with_cp)):
        unit = 4 * s.tokens * s.dim
        attention = 2 * s.attention_map + 6 * 4 * s.padded * s.dim if whole_maps else budget
        again = int(16 * unit * width) + s.bias if cp else 0
        if cp and whole_maps:
            again += 2 * s.attention_map + 8 * 4 * s.padded * s.dim
        # first the MLP's part goes, with two hidden gradients; then attention, when 9 of the 16 are gone
        passing = again + max(int(5 * unit * width), attention - int(9 * unit * width))
        for _ in range(s.depth):
            if live + passing > peak:
                peak, workspace = live + passing, passing
            live -= block
            live += 0 if gradients_kept else 4 * s.block_parameters
        live -= outside
        live += 0 if gradients_kept else 4 * s.merge_parameters
    peak = max(peak, static + 4 * parameters)
    return Plan(weights, 4 * parameters, optimizer_bytes, activations, workspace, peak)
