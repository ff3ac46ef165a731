"""Counts the bytes of live tensors while code runs, on any device; on the meta device nothing is allocated."""
from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operators allocate while the mode is on, as long as something refers to them.

    ``live`` is the present number of bytes, ``peak`` the largest so far. Memory inside an operator is not seen.

    Args:
        there: Tensors that exist already; they and views of them are not counted.
    """

    def __init__(self, *there: Tensor) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self.known = {t.untyped_storage()._cdata for t in there}

    def __torch_dispatch__(self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        """Runs an operator and counts its results."""
        for t in tree_leaves((args, kwargs)):
            if isinstance(t, Tensor):
                self._see(t, counted=False)  # it was there before
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(t, Tensor):
                self._see(t, counted=True)
        return out

    def _see(self, t: Tensor, *, counted: bool) -> None:
        storage = t.untyped_storage()
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
