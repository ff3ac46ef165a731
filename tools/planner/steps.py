"""The moments of a training step on one GPU, and the one with the peak.

What the backbone, neck and heads keep is counted; what is divided among GPUs is arithmetic (:mod:`.sharding`).
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .counting import BackboneMemory
from .sharding import Sharding


@dataclass(frozen=True)
class Model:
    """The model beside what its backbone keeps, in numbers of parameters and in bytes."""

    parameters: int  # of the backbone
    trainable: int  # those of the backbone that are not frozen
    others: int = 0  # parameters of neck and heads
    others_trainable: int = 0
    units: tuple[int, ...] = ()  # parameters of each layer outside the backbone that FSDP shards by itself
    heads_kept: int = 0  # bytes that neck and heads keep for the backward pass
    heads_peak: int = 0
    neck_peak: int = 0  # from when the backward pass reaches units


@dataclass(frozen=True)
class Moment:
    """Bytes at a moment of a step, beside those allocated all the time."""

    name: str  # forward, heads, backward, averaging of gradients, or step of the optimizer
    counted: int = 0  # of backbone, neck and heads, and of the optimizer's temporaries
    gradients: int = 0  # of weights, beside buckets
    gathered: int = 0  # weights and gradients that are temporarily whole
    workspace: int = 0  # the part of counted that is needed at this moment only

    @property
    def total(self) -> int:
        """All of it."""
        return self.counted + self.gradients + self.gathered


@dataclass(frozen=True)
class Plan:
    """Bytes of a training step on one GPU."""

    weights: int  # allocated all the time
    gradients: int  # all of them, with buckets
    optimizer: int  # its states
    gathered: int  # weights and gradients gathered from other GPUs, at the peak
    activations: int  # of the backbone, kept for the backward pass when the forward pass has ended
    heads: int  # kept by neck and heads
    workspace: int  # needed at the peak only: what is recomputed, its gradients, the optimizer's temporaries
    peak: int  # the largest total at any moment; less than the sum of the parts, which do not peak together
    moment: str  # when the peak is


def _moments(backbone: BackboneMemory, model: Model, sharding: Sharding) -> Iterator[Moment]:
    """The moments of a step, in their order."""
    chain = [*backbone.blocks, *model.units]
    root = model.parameters + model.others - sum(chain)
    trainable = model.trainable + model.others_trainable

    def gathered(block: int | None, *, gradients: int | None = None) -> int:
        size = sharding.root(root, backward=gradients is not None)
        if block is None or block >= len(chain):
            return size
        below, above = chain[block - 1] if block else 0, chain[block + 1] if block + 1 < len(chain) else 0
        before, after = (below, above) if gradients is None else (above, below)
        return size + sharding.gathered(chain[block], before=before, after=after, gradients=gradients)

    start = 0
    for part in backbone.forward:
        yield Moment('forward', part.peak, 0, gathered(part.block), part.peak - start)
        start = part.live
    gradients = sharding.gradients(model.others_trainable)
    for peak, unit in ((model.heads_peak, None), (model.neck_peak, len(backbone.blocks))):
        size = gathered(unit, gradients=0)
        yield Moment('heads', backbone.kept + peak, gradients, size, peak - model.heads_kept)

    block, own = None, 0  # whose backward pass it is, and its gradients so far
    for part in backbone.backward:
        if part.block is not None and part.block != block:
            block, own = part.block, 0
        before = backbone.kept if block is None else backbone.forward[block + 1].live
        yield Moment('backward', part.peak, gradients, gathered(block, gradients=own), part.peak - before)
        gradients += sharding.gradients(part.parameters)
        own += part.parameters if part.block is not None else 0
    gradients = sharding.gradients(trainable)
    # the root's gradients, their buffer and that of the first block
    averaging = sharding.root(root, backward=True) + (4 * chain[0] if sharding.strategy == 'fsdp' else 0)
    yield Moment('averaging', 0, gradients, averaging)
    stepping = sharding.stepping(trainable)
    yield Moment('step', stepping, gradients, 0, stepping)


def plan_step(backbone: BackboneMemory, model: Model, sharding: Sharding = Sharding()) -> Plan:
    """Finds the peak of a training step: forward, backward and the optimizer's step."""
    parameters, trainable = model.parameters + model.others, model.trainable + model.others_trainable
    weights, states, buckets = sharding.weights(parameters), sharding.states(trainable), sharding.buckets(trainable)
    worst = max(_moments(backbone, model, sharding), key=lambda moment: moment.total)
    return Plan(weights, buckets + sharding.gradients(trainable), states, worst.gathered, backbone.kept,
                model.heads_kept, max(0, worst.workspace), weights + states + buckets + backbone.image + worst.total,
                worst.name)
