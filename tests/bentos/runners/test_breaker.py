"""What opens and closes a breaker: consecutive faults, and nothing but a probe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bentos.rows import Decision, Rows
from bentos.runners import settled
from bentos.runners.breaker import Breaker
from bentos.runners.fallback import Constant, Fallback


def test_a_call_that_began_before_it_opened_does_not_close_it() -> None:
    now = [0.0]
    breaker = Breaker(2, lambda reason: None, cool_down=5.0, clock=lambda: now[0])
    assert breaker.allows()
    for _ in range(2):
        breaker.fault("broken")
    breaker.success()
    assert breaker.open
    now[0] = 6.0
    assert breaker.allows(), "the probe"
    breaker.fault("still broken")
    breaker.success()
    assert breaker.open, "the probe has failed, and is no probe any more"
    now[0] = 12.0
    assert breaker.allows()
    breaker.success()
    assert not breaker.open


class HalfBroken:
    """Gives NaN for the first row of each request."""

    async def decide(self, rows: Rows) -> Decision:
        action = np.zeros((rows.size, 1), np.float32)
        action[0] = np.nan
        return Decision(action, np.ones(rows.size, bool), ["policy"] * rows.size, ["1"] * rows.size)


@pytest.mark.parametrize(
    ("champion", "opens"), [(lambda me: me, False), (lambda me: None, True)], ids=["champion", "challenger"]
)
def test_some_rows_without_finite_answers_open_a_challengers_breaker_and_not_the_champions(
    champion: Callable[[Any], Any], opens: bool
) -> None:
    opened: list[str] = []
    guard: Fallback = Fallback(
        HalfBroken(),
        policy="p",
        version="1",
        breaker=Breaker(3, opened.append),
        champion=lambda: champion(guard),
        last=Constant(np.zeros(1, np.float32)),
    )
    for _ in range(3):
        rows = Rows(feeds={"observation": np.zeros((2, 4), np.float32)}, size=2, version="1")
        decision = asyncio.run(settled(guard.decide(rows)))  # type: ignore[arg-type]
        assert (decision.sources, decision.faults) == (["fallback", "policy"], {"non_finite": 1})
    assert bool(opened) is opens
