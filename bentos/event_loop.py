"""A coroutine that was run up to its first wait, to be awaited for the rest."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
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
