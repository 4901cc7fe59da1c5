"""Fallback: whatever goes wrong inside, an action comes out: the champion's, else the spec's fallback."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np

from bentos import logs
from bentos.logs import Quota
from bentos.rows import (
    FALLBACK,
    Array,
    DeadlineMissed,
    Decision,
    NothingCanAnswer,
    Overloaded,
    Rows,
)
from bentos.runners import Deciding, Runner, settled
from bentos.runners.breaker import Breaker

NON_FINITE = "non_finite"
EXCEPTION = "exception"
DEADLINE = "deadline"
_FALSE = b"\0"


class Fallback:
    """Guards one version.

    A non-finite output (the graph's `finite`, and the action itself), an exception, a missed deadline or an open
    breaker sends the rows concerned to the champion's policy and, where that cannot answer either, to `last`, the
    spec's fallback. `champion` returns the champion's guard, or None; rows whose assigned version is another than
    `version` are answered here as that version's fallback.
    """

    def __init__(
        self,
        following: Runner,
        *,
        policy: str,
        version: str,
        breaker: Breaker,
        champion: Callable[[], Fallback | None],
        last: Constant | Runner | None,
    ) -> None:
        self.following = following
        self.breaker = breaker
        self._policy = policy
        self._version = version
        self._champion = champion
        self._last = last
        self._quota = Quota(1)

    def decide(self, rows: Rows) -> Deciding:
        """An action for every row. Raises NothingCanAnswer, or Overloaded when the version's queue is full."""
        if rows.rescue or not (self.breaker.calm or self.breaker.allows()):
            return self._rescue(rows, None)
        try:
            decision = self.following.decide(rows)
        except Exception as error:  # noqa: BLE001 - the guard's very purpose
            return self._failed(rows, error)
        return self._judged(rows, decision) if isinstance(decision, Decision) else self._awaited(rows, decision)

    async def _awaited(self, rows: Rows, coming: Coroutine[Any, Any, Decision]) -> Decision:
        try:
            decision = await coming
        except Exception as error:  # noqa: BLE001 - the guard's very purpose
            return await self._failed(rows, error)
        return await settled(self._judged(rows, decision))

    def _judged(self, rows: Rows, decision: Decision) -> Deciding:
        good = finite_rows(decision)
        if good is not None:
            return self._partly(rows, decision, good)
        if not self.breaker.calm:
            self.breaker.success()
        if rows.version != self._version:
            decision.sources = [FALLBACK] * rows.size
        return decision

    def _failed(self, rows: Rows, error: Exception) -> Coroutine[Any, Any, Decision]:
        if isinstance(error, Overloaded):
            raise error
        if isinstance(error, DeadlineMissed):
            return self._faulty(rows, DEADLINE, str(error), counts=_blames(error))
        return self._faulty(rows, EXCEPTION, f"{type(error).__name__}: {error}")

    async def answer_for(self, rows: Rows) -> Decision | None:
        """This version's actions for rows of another version, or None when it is in no state to give them."""
        if not self.breaker.allows():
            return None
        try:
            decision = await settled(self.following.decide(rows))
        except Exception as error:  # noqa: BLE001 - the caller has a further fallback
            if _blames(error):
                self.breaker.fault(f"{type(error).__name__}: {error}")
            return None
        if finite_rows(decision) is not None:
            self.breaker.fault("non-finite output")
            return None
        self.breaker.success()
        return decision

    async def _faulty(self, rows: Rows, kind: str, detail: str, counts: bool = True) -> Decision:
        """`counts`: the breaker hears of it; it does not where too many rows were asked for at once."""
        self._log(kind, detail, rows.size)
        if counts:
            self.breaker.fault(f"{kind}: {detail}")
        return await self._rescue(rows, {kind: rows.size})

    async def _partly(self, rows: Rows, decision: Decision, good: Array) -> Decision:
        """Some rows came out non-finite: only they are answered by the fallback."""
        bad = np.flatnonzero(~good)
        if len(bad) == rows.size:
            return await self._faulty(rows, NON_FINITE, "non-finite output")
        if self._champion() is self:
            self.breaker.success()  # one client's odd observation must not shut the champion off for all
        else:
            self.breaker.fault(f"{NON_FINITE}: non-finite output")
        if rows.version != self._version:
            decision.sources = [FALLBACK] * rows.size
        decision.put(bad, await self._rescue(rows.take(bad), None))
        decision.faults = {NON_FINITE: len(bad)}
        self._log(NON_FINITE, "non-finite output", len(bad))
        return decision

    def _log(self, kind: str, detail: str, rows: int) -> None:
        """One line a second of each kind at most: a broken version under load must not fill the disk with its log."""
        if told := self._quota.told(kind, rows):
            logs.error("fault", policy=self._policy, version=self._version, kind=kind, detail=detail, rows=told)

    async def _rescue(self, rows: Rows, faults: dict[str, int] | None) -> Decision:
        champion = self._champion()
        decision = None
        late = DEADLINE in (faults or ())
        if champion is not None and champion is not self:
            decision = await champion.answer_for(rows)
        if decision is None:
            if self._last is None:
                raise NothingCanAnswer(f"version {self._version} has no fallback and the champion cannot answer", late)
            decision = await settled(self._last.decide(rows))
            if finite_rows(decision) is not None:
                raise NothingCanAnswer(f"the fallback of version {self._version} gave a non-finite action", late)
            decision.versions = [None] * rows.size
        decision.sources = [FALLBACK] * rows.size
        decision.faults = faults
        return decision


def _blames(error: Exception) -> bool:
    """Whether the version is at fault: it is not where it is asked for more than it can take, by many or by one."""
    return not (isinstance(error, Overloaded) or (isinstance(error, DeadlineMissed) and error.partly))


class Constant:
    """The spec's constant action, for every row."""

    def __init__(self, action: Array) -> None:
        self._action = action

    def decide(self, rows: Rows) -> Decision:
        """The constant, answered by no version."""
        return Decision(
            action=np.repeat(self._action[None], rows.size, axis=0),
            finite=np.ones(rows.size, dtype=bool),
            sources=[FALLBACK] * rows.size,
            versions=[None] * rows.size,
        )


def finite_rows(decision: Decision) -> Array | None:
    """None when every row is finite, else bool [size]. Both the graph's word and the action itself count."""
    action = decision.action
    if _FALSE not in decision.finite.tobytes():
        if action.dtype.kind != "f":
            return None
        total = action.sum()  # of what is finite it may still overflow: then the rows are looked at one by one
        if total - total == 0.0:
            return None
    elif action.dtype.kind != "f":
        return decision.finite
    rows: Array = decision.finite & np.isfinite(action).reshape(len(action), -1).all(axis=1)
    return None if rows.all() else rows
