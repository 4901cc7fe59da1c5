"""Box: continuous actions are held to all limits at once."""

from __future__ import annotations

from operator import le
from typing import Protocol

import numpy as np

from bentos.envelope.adjustment import BOUNDS, CONSTRAINT, change
from bentos.envelope.limits import Acceleration, RateLimit, bounds, intersect, inward
from bentos.envelope.polytope import Polytope
from bentos.package.manifest import Array, Space
from bentos.package.safety import Safety
from bentos.rows import Decision, Rows

_FEW = 16


class Limit(Protocol):
    """What confines each dimension of an action to an interval of its own."""

    @property
    def reason(self) -> str:
        """The code of a change."""
        ...

    def interval(self, rows: Rows) -> tuple[Array, Array] | None:
        """Lowest and highest action of every row, float64 [n, d]; None where no row is limited."""
        ...


class Box:
    """Bounds, then acceleration limit, then rate limit make a box for each row, and constraints cut into it.

    What leaves is the point of that set next to the inner action (Euclid); a row inside is left alone bit for bit.
    Where limits contradict each other, the earlier of them holds and the later is missed by the least. Where the
    constraints leave nothing of the box, `fallback` leaves if it is in the box, else the point of least violation.
    """

    def __init__(self, space: Space, safety: Safety, observations: Space | None, fallback: Array | None) -> None:
        """`fallback` is the spec's constant action, if it has one. Raises PackageError for limits that do not fit."""
        self._dtype = np.dtype(space.dtype)
        self._low, self._high = inward(*bounds(space, safety), self._dtype)
        self._fallback = None if fallback is None else fallback.reshape(-1).astype(self._dtype)
        self._limits: list[Limit] = []
        if safety.acceleration_limit is not None:
            self._limits.append(Acceleration(safety.acceleration_limit, space, observations))
        if safety.rate_limit is not None:
            self._limits.append(RateLimit(safety.rate_limit, space))
        self._polytope = Polytope(safety.constraints, space, observations) if safety.constraints else None
        self._few = self._low.size <= _FEW
        self._lows, self._highs = self._low.reshape(-1).tolist(), self._high.reshape(-1).tolist()
        self._bounds_only = not self._limits and self._polytope is None

    def hold(self, rows: Rows, decision: Decision) -> None:
        """Move the actions that are outside, and note why; rows that an override forced are left alone."""
        if self._bounds_only:
            action = decision.action
            if len(action) == 1 and self._few:
                # for a few numbers plain comparisons take a fifth of the time that arrays do; NaN fails them
                values = action.reshape(-1).tolist()
                if all(map(le, self._lows, values)) and all(map(le, values, self._highs)):
                    return
            inside = np.minimum(np.maximum(action, self._low), self._high)
            if inside.tobytes() != action.tobytes():
                change(decision, inside, {BOUNDS: _outside(action, self._low, self._high)})
            return
        self._hold_all(rows, decision)

    def _hold_all(self, rows: Rows, decision: Decision) -> None:
        given = decision.action.reshape(rows.size, -1)
        low, high = self._low.reshape(1, -1), self._high.reshape(1, -1)
        broken: dict[str, Array] = {}
        missed: Array | None = None
        for limit in self._limits:
            interval = limit.interval(rows)
            if interval is not None:
                ends = inward(*interval, self._dtype)
                broken[limit.reason] = _outside(given, *ends)
                low, high, empty = intersect(low, high, *ends)
                if empty.any():
                    rowwise = np.logical_or.reduce(empty, axis=1)
                    missed = rowwise if missed is None else missed | rowwise
        inside = np.fmin(np.fmax(given, low), high)
        cut = None
        if self._polytope is not None:
            bound = self._polytope.bounds(rows.feeds, rows.size)
            cut = np.logical_or.reduce(self._polytope.broken(inside, bound), axis=1)
            if not np.logical_or.reduce(cut):
                cut = None
        if cut is None and missed is None and inside.tobytes() == given.tobytes():
            return
        if cut is not None and self._polytope is not None:
            low, high = np.broadcast_to(low, given.shape), np.broadcast_to(high, given.shape)
            missed = np.zeros(rows.size, dtype=bool) if missed is None else missed
            free = cut if decision.forced is None else cut & ~decision.forced
            target = np.where(np.isfinite(given), given, inside)
            for row in np.flatnonzero(free).tolist():
                found = self._polytope.project(target[row], low[row], high[row], bound[row])
                missed[row] |= found is None or not found[1]
                inside[row] = self._last(target[row], low[row], high[row], bound[row]) if found is None else found[0]
        reasons = {BOUNDS: _outside(given, self._low.reshape(1, -1), self._high.reshape(1, -1)), **broken}
        if cut is not None:
            reasons[CONSTRAINT] = cut
        change(decision, inside.reshape(decision.action.shape), reasons, missed)

    def _last(self, target: Array, low: Array, high: Array, bound: Array) -> Array:
        """What leaves where no action of the box meets the constraints."""
        fallback = self._fallback
        if fallback is not None and ((fallback >= low) & (fallback <= high)).all():
            return fallback
        if self._polytope is None:
            return target
        return self._polytope.least_violation(target, low, high, bound)


def _outside(given: Array, low: Array, high: Array) -> Array:
    """Rows [n] with an entry outside of its interval; NaN is outside."""
    return ~np.logical_and.reduce(((given >= low) & (given <= high)).reshape(len(given), -1), axis=1)
