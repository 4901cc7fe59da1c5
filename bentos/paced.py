"""Paced: much that is to be done at once is done a little at a time, so that others' requests do not wait for all."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Paced(Generic[_T]):
    """Does something with each of what is added, in order, so many between two looks at the network.

    The first of them at once. True while something is left to be done. Call it on the event loop.
    """

    def __init__(self, at_once: int, do: Callable[[_T], None]) -> None:
        self._at_once = at_once
        self._do = do
        self._left: deque[_T] = deque()

    def __bool__(self) -> bool:
        return bool(self._left)

    def add(self, some: Iterable[_T]) -> None:
        """Have these done, behind what is left."""
        under_way = bool(self._left)
        self._left.extend(some)
        if not under_way:
            self._turn()

    def _turn(self) -> None:
        some = [self._left.popleft() for _ in range(min(self._at_once, len(self._left)))]
        if self._left:
            asyncio.get_running_loop().call_soon(self._turn)
        for one in some:
            self._do(one)
