"""Counts what a step of the backbone keeps in memory, by running it, forward and backward, on the meta device.

Everything runs as on the device: blocks, kernels in Python, checkpoints, chunks. Only the kernels of Triton are not
started, and nothing is computed. Memory inside of torch's own operators, and what the allocator holds without need, are
not counted. Gradients of weights are: as they are made, until they are stored; stored ones are for
:mod:`planner.sharding`.
"""
from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmswinv2.core import BackboneConfig, SwinTransformerV2, VideoSwinTransformerV2
from mmswinv2.core.attention import cells
from mmswinv2.core.torch_compat import meta_stands_for

from .meta import KERNELS, META, autocast

NETS = {net.config_type.axes: net for net in (SwinTransformerV2, VideoSwinTransformerV2)}


def _first_two(*args: Any, plan: Callable[..., Iterator[cells.Step]] = cells.plan,
               **kwargs: Any) -> Iterator[cells.Step]:
    """Of equal parts of a plan two: more need no more memory, as the first is the largest, and each is gone when the
    second after it is made."""
    seen: Counter[tuple[int, ...]] = Counter()
    for step in plan(*args, **kwargs):
        seen[step.size] += 1
        if seen[step.size] <= 2:
            yield step._replace(chunks=step.chunks[:2], blocks=step.blocks[:2])


def _generator(seed: Tensor | None, device: torch.device) -> torch.Generator | None:
    """Of dropout; the meta device has none."""
    return None if seed is None else torch.Generator()


def _described(value: Any) -> Any:
    """What the shape of a result can depend on, as a key."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_described, value))
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    return type(value), value  # 1, 1.0 and True are equal


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operators allocate while the mode is on, as long as something refers to them.

    ``live`` is the present number of bytes, ``peak`` the largest so far; the tensors ``there`` and their views are not
    counted. Inside of our operators of attention memory is seen; of equal calls only the first is run there.
    """

    made: dict[tuple, list] = {}  # of a call on the meta device, in any count: each result, described

    def __init__(self, *there: Tensor) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self.known = {t.untyped_storage()._cdata for t in there}
        self.inside: dict[tuple, int] = {}  # bytes of a call, at most

    def __torch_dispatch__(self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        """Runs an operator and counts its results."""
        for value in (*args, *kwargs.values()) if kwargs else args:
            self._see(value, counted=False)  # it was there before
        if func in KERNELS:
            return self._attend(func, args)
        out = self._run(func, args, kwargs or {})
        self._see(out, counted=True)
        return out

    def _run(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Runs an operator; on the meta device one that makes new tensors is not run again for equal arguments."""
        call = (func, *map(_described, args), *((name, _described(value)) for name, value in kwargs.items()))
        if call in self.made:
            made = [torch.empty_strided(shape, strides, dtype=dtype, device='meta')
                    for shape, strides, dtype, _ in self.made[call]]
            return made[0] if len(made) == 1 else tuple(made)
        out = META.get(func, func)(*args, **kwargs)
        outs = (out,) if isinstance(out, Tensor) else out if isinstance(out, tuple) else ()
        fresh = not any(r.alias_info for r in func._schema.returns)
        if outs and fresh and all(isinstance(t, Tensor) and t.is_meta for t in outs):
            self.made[call] = [_described(t) for t in outs]
        return out

    def _attend(self, func: Callable[..., Any], args: Sequence[Any]) -> Any:
        call = (func, *((a.shape, a.dtype) if isinstance(a, Tensor) else str(a) for a in args))
        start, before = self.live, self.forget_peak()
        if call in self.inside:
            out = func(*args)
            self._see(out, counted=True)
        else:
            on_meta = mock.patch.multiple(cells, plan=_first_two, _generator=_generator)
            with self, on_meta if args[0].is_meta else nullcontext():
                out = KERNELS[func](*args)
            self.inside[call] = self.peak - start
        self.peak = max(before, start + self.inside[call])
        return out

    def _see(self, value: Any, *, counted: bool) -> None:
        if isinstance(value, (list, tuple)):
            for item in value:
                self._see(item, counted=counted)
        if not isinstance(value, Tensor):
            return
        storage = value.untyped_storage()
        if storage._cdata not in self.known:
            key, size = storage._cdata, storage.nbytes() if counted else 0
            self.known.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, key, size)

    def forget_peak(self) -> int:
        """Gives the peak so far, and starts it anew from what is alive."""
        peak, self.peak = self.peak, self.live
        return peak

    def _forget(self, key: int, size: int) -> None:
        self.live -= size
        self.known.discard(key)


@dataclass(frozen=True)
class Setting:
    """How the backbone is computed."""

    config: BackboneConfig
    autocast: bool = False  # weights and the residual stream in float32, matrix products in a 16-bit type
    cast_cache: bool = False  # whether 16-bit copies of weights are kept until the forward pass ends, the default
    device: str = 'cuda'  # or 'cpu': backends and chunks depend on it


@dataclass(frozen=True)
class Part:
    """A part of a pass."""

    live: int  # bytes alive when it has ended
    peak: int  # bytes alive at most
    block: int | None = None  # which one is computed; None outside of blocks
    parameters: int = 0  # of the weight whose gradient is made at its end


@dataclass(frozen=True)
class BackboneMemory:
    """A step of the backbone."""

    blocks: tuple[int, ...]  # parameters of each
    forward: tuple[Part, ...]  # the patch embedding, then each block with what follows it
    backward: tuple[Part, ...]  # in its order, a part for each weight that is trained
    image: int  # bytes of the batch's images, which are counted nowhere else

    @property
    def kept(self) -> int:
        """Bytes for the backward pass, and outputs, when the forward pass has ended."""
        return self.forward[-1].live


class _Loss(torch.autograd.Function):
    """A loss that keeps no outputs, and gives the gradients of all at once, as a neck does."""

    @staticmethod
    def forward(ctx, *outs):
        """Shapes only."""
        ctx.shapes = [out.shape for out in outs]
        return outs[0].new_empty(())

    @staticmethod
    def backward(ctx, grad):
        """Shapes only."""
        return tuple(map(grad.new_empty, ctx.shapes))


def backbone_memory(setting: Setting, image: tuple[int, ...], batch: int) -> BackboneMemory:
    """Runs a step of the backbone.

    Args:
        setting: How it is computed.
        image: Pixels along each axis, frames along the first of three.
        batch: B.
    """
    config = setting.config
    with torch.device('meta'):
        net = NETS[config.axes](**{f.name: getattr(config, f.name) for f in fields(config)}).train()
        x = torch.empty(batch, config.in_channels, *image)
    blocks = [block for stage in net.layers for block in stage.blocks]
    places = {p: i for i, block in enumerate(blocks) for p in block.parameters()}
    live, parts = LiveBytes(x, *net.parameters(), *net.buffers()), []

    def end_of_part(block: int | None = None, parameters: int = 0) -> None:
        parts.append(Part(live.live, live.forget_peak(), block, parameters))

    def end_of_block() -> None:
        end_of_part(len(parts) - 1 if parts else None)

    def end_of_gradient(p: Tensor) -> None:
        p.grad = None
        end_of_part(places.get(p), p.numel())

    def precision():
        return autocast(cached=setting.cast_cache) if setting.autocast else nullcontext()

    with meta_stands_for(setting.device):
        with torch.no_grad(), precision(), LiveBytes():
            net(x)  # makes what is made once
        hooks = [block.register_forward_pre_hook(lambda *_: end_of_block()) for block in blocks]
        with precision() as mode, live:
            outs = net(x)
            end_of_block()
            for hook in hooks:
                hook.remove()
            forward, parts = parts, []
            if mode is not None and mode.cast is not None:
                mode.cast.clear()
            for p in net.parameters():
                if p.requires_grad:
                    p.register_post_accumulate_grad_hook(end_of_gradient)
            if any(out.requires_grad for out in outs):
                loss = _Loss.apply(*outs)
                del outs
                loss.backward()
    return BackboneMemory(tuple(sum(p.numel() for p in block.parameters()) for block in blocks), tuple(forward),
                          tuple(parts), x.nbytes)
