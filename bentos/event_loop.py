"""Work on the event loop: the rest of a coroutine that was begun, and long lists done a little at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable
from functools import partial
from typing import Any, Generic, TypeVar, cast

_T = TypeVar("_T")


class _Started(Generic[_T]):
    def __init__(self, coroutine: Coroutine[Any, Any, _T], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, _T]:
        waits_for = self._waits_for
        while True:
            try:
                given = yield waits_for
            except BaseException as error:  # noqa: BLE001 - whatever is thrown in is the coroutine's to handle
                step = partial(self._coroutine.throw, error)
            else:
                step = partial(self._coroutine.send, given)
            try:
                waits_for = step()
            except StopIteration as done:
                return cast(_T, done.value)


async def rest(coroutine: Coroutine[Any, Any, _T], waits_for: Any) -> _T:
    """The result of a coroutine whose first `send` returned `waits_for`."""
    return await _Started(coroutine, waits_for)


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
