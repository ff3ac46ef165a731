"""Bytes of weights, gradients and optimizer states on each GPU, for each sharding strategy.

================  ==============  =====================  ===============================
bytes/parameter   weights         gradients              optimizer (Adam)
================  ==============  =====================  ===============================
``none``          4               4, twice in DDP (1)    8
``zero1``         4               4 (1)                  8 / GPUs
``fsdp``          4 / GPUs (2)    4 / GPUs (2)           8 / GPUs
================  ==============  =====================  ===============================

(1) DDP's buckets exist from the first step to the last. With ``gradient_as_bucket_view`` they are the gradients,
otherwise the gradients come on top. (2) Some blocks are temporarily whole: :meth:`Sharding.gathered`.

Source:
    torch 2.13: ``distributed/fsdp/_fully_shard/_fsdp_param_group.py`` (how long FSDP2 keeps its buffers),
    ``optim/adamw.py`` (the temporary of the foreach step).
"""
from __future__ import annotations

from dataclasses import dataclass

STRATEGIES = ('none', 'zero1', 'fsdp')


@dataclass(frozen=True)
class Sharding:
    """A strategy, on a number of GPUs.

    Args:
        strategy: One of ``STRATEGIES``: ``'none'``: every GPU has everything (DDP where there are several);
            ``'zero1'``: torch's ZeroRedundancyOptimizer under DDP; ``'fsdp'``: torch's ``fully_shard``.
        gpus: Number of GPUs that share.
        bucket_view: DDP's ``gradient_as_bucket_view``.
        state_bytes: Optimizer states per parameter: 8 for Adam, 4 for SGD with momentum.
        foreach: Whether the optimizer steps all parameters at once, torch's default on a GPU. This takes one more copy
            of the parameters; ``fused=True`` takes none.

    Raises:
        ValueError: if ``strategy`` is unknown or ``gpus`` is less than 1.
    """

    strategy: str = 'none'
    gpus: int = 1
    bucket_view: bool = True
    state_bytes: int = 8
    foreach: bool = True

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f'strategy must be one of {", ".join(STRATEGIES)}, got {self.strategy!r}')
        if self.gpus < 1:
            raise ValueError(f'gpus must be >= 1, got {self.gpus}')

    @property
    def ddp(self) -> bool:
        """Whether gradients are averaged by DDP."""
        return self.strategy in ('none', 'zero1') and self.gpus > 1

    def share(self, size: int) -> int:
        """One GPU's part of a sharded size."""
        return -(-size // self.gpus)

    def weights(self, parameters: int) -> int:
        """Bytes of weights, allocated all the time."""
        return self.share(4 * parameters) if self.strategy == 'fsdp' else 4 * parameters

    def buckets(self, trainable: int) -> int:
        """Bytes of DDP's gradient buckets, allocated all the time."""
        return 4 * trainable if self.ddp else 0

    def gradients(self, trainable: int) -> int:
        """Bytes of gradients beside buckets, from the backward pass to the optimizer's step."""
        if self.ddp:
            return 0 if self.bucket_view else 4 * trainable
        return self.share(4 * trainable) if self.strategy == 'fsdp' else 4 * trainable

    def states(self, trainable: int) -> int:
        """Bytes of optimizer states, allocated all the time."""
        if self.strategy == 'none':
            return self.state_bytes * trainable
        return self.share(self.state_bytes * trainable)

    def stepping(self, trainable: int) -> int:
        """Bytes that the optimizer needs during its step only."""
        size = 4 * trainable if self.foreach else 0
        return size if self.strategy == 'none' else self.share(size)

    def root(self, parameters: int, *, backward: bool) -> int:
        """Bytes of parameters outside blocks, whole from the forward to the end of the backward pass, and gradients."""
        return (8 if backward else 4) * parameters if self.strategy == 'fsdp' else 0

    def gathered(self, unit: int, *, before: int, after: int, gradients: int | None) -> int:
        """Bytes that are gathered while a block is computed.

        Forward: its weights, the buffer they came in (kept until the next block's weights arrive), and the buffer
        of the next block. Backward: its weights and its gradients so far, the buffer of the next block's weights, and
        the buffer in which the last block's gradients are averaged.

        Args:
            unit: Parameters of the block.
            before: Of the block that was computed before.
            after: Of the one that comes next.
            gradients: Those of its parameters that have a gradient, in the backward pass; None in the forward pass.
        """
        if self.strategy != 'fsdp':
            return 0
        return 4 * (2 * unit + after) if gradients is None else 4 * (unit + gradients + before + after)
