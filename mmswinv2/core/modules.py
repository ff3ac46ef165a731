"""torch's list of modules, which type checkers see with the kind of its modules."""
from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

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
