"""torch's list of modules, which type checkers see with the kind of its modules; who sees a layer's result."""
from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.module import _has_any_global_hook

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Generic, TypeVar, overload

    M = TypeVar('M', bound=nn.Module)

    class ModuleList(nn.ModuleList, Generic[M]):  # noqa: D101
        def __init__(self, modules: Iterable[M] = ()) -> None: ...

        def __iter__(self) -> Iterator[M]: ...

        @overload
        def __getitem__(self, i: slice) -> ModuleList[M]: ...

        @overload
        def __getitem__(self, i: int) -> M: ...

        def __getitem__(self, i: int | slice) -> M | ModuleList[M]: ...
else:
    ModuleList = nn.ModuleList


def may_be_kept(linear: nn.Module) -> bool:
    """Whether others may have kept the result of a linear layer: a hook, or a module that has taken its place.

    Such a result must not be changed in place.
    """
    return (type(linear) is not nn.Linear or 'forward' in vars(linear) or _has_any_global_hook()
            or bool(linear._forward_hooks or linear._backward_hooks or linear._backward_pre_hooks))
