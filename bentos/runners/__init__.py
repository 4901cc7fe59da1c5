"""The steps of a decision, each holding the next and having one method on rows:

validate -> assign -> record(constrain(override(fallback(remember(batch(infer))))))

A step that has its answer at once returns it; one that must wait returns a coroutine of it. So a policy that answers
faster than anything can be waited for is asked by plain calls: coroutines around it would cost more than its graph.
May import `envelope`, `telemetry`, `store` and `package`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from bentos.rows import Decision, Rows

_T = TypeVar("_T")

Deciding = Decision | Coroutine[Any, Any, Decision]
"""A decision, or where something must be waited for, a coroutine of it."""


class Runner(Protocol):
    """One step inside a version's chain."""

    def decide(self, rows: Rows) -> Deciding:
        """An action for every row."""
        ...


async def settled(answer: _T | Coroutine[Any, Any, _T]) -> _T:
    """The answer, whether it was there at once or must be waited for."""
    return await answer if inspect.iscoroutine(answer) else answer  # type: ignore[return-value]


async def later(coming: Coroutine[Any, Any, Decision], rows: Rows, then: Callable[[Rows, Decision], _T]) -> _T:
    """What `then` makes of a decision that is waited for."""
    return then(rows, await coming)
