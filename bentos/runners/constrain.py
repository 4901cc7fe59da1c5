"""Constrain: no action leaves the envelope, whoever chose it; every change carries a reason code."""

from __future__ import annotations

import numpy as np

from bentos.masks import Masks
from bentos.package import PackageError, Safety, Space
from bentos.rows import Array, Decision, Rows
from bentos.runners import Runner

BOUNDS = "bounds"
ACTION_MASK = "action_mask"
RATE_LIMIT = "rate_limit"


class Constrain:
    """Holds actions to the bounds (shrunk by the safety margin), the rate limit and the request's action mask.

    Rows that an override forced are left alone.
    """

    def __init__(self, following: Runner, space: Space, safety: Safety) -> None:
        self.following = following
        self._masks = Masks(space)
        self.dtype = np.dtype(space.dtype)
        low, high = envelope(space, safety)
        self._low, self._high = _inward(low, high, self.dtype)
        self._rate = None
        if safety.rate_limit is not None:
            if space.type != "Box":
                raise PackageError(f"safety.rate_limit is for Box actions; this policy's are {space.type}")
            self._rate = np.broadcast_to(np.asarray(safety.rate_limit, dtype=np.float64), space.shape)

    async def decide(self, rows: Rows) -> Decision:
        """The inner action, moved into the envelope where it was outside."""
        decision = await self.following.decide(rows)
        free = None if decision.forced is None else ~decision.forced
        if self._rate is not None and rows.states is not None:
            self._limit_rate(rows, decision, free)
        self._clip(decision, free)
        if rows.masks is not None:
            obeyed = self._masks.obeyed(rows.masks, decision.action, decision.scores)
            if obeyed is not decision.action:
                self._change(decision, obeyed, free, ACTION_MASK)
        return decision

    def _clip(self, decision: Decision, free: Array | None) -> None:
        action = decision.action
        inside = np.minimum(np.maximum(action, self._low), self._high)
        if not np.logical_and.reduce(inside == action, axis=None):
            self._change(decision, inside, free, BOUNDS)

    def _limit_rate(self, rows: Rows, decision: Decision, free: Array | None) -> None:
        last = np.full(decision.action.shape, np.nan)
        for row, state in enumerate(rows.states or ()):
            if state is not None and state.action is not None:
                last[row] = np.reshape(state.action, decision.action.shape[1:])
        lowest, highest = _inward(last - self._rate, last + self._rate, self.dtype)
        # fmin and fmax leave alone what has no last action (NaN)
        limited = np.fmin(np.fmax(decision.action, lowest), highest)
        self._change(decision, limited, free, RATE_LIMIT)

    def _change(self, decision: Decision, wanted: Array, free: Array | None, reason: str) -> None:
        differs = (wanted != decision.action).reshape(len(wanted), -1).any(axis=1)
        if free is not None:
            differs &= free
        changed = np.flatnonzero(differs)
        if len(changed):
            decision.action = np.array(decision.action)
            decision.action[changed] = wanted[changed]
            decision.adjust(changed, reason)


def envelope(space: Space, safety: Safety) -> tuple[Array, Array]:
    """Lowest and highest action, float64, shape of the action: the spec's bounds (else the space's) less the margin.

    Raises PackageError when the bounds do not fit the space or leave nothing.
    """
    if space.type == "Discrete":
        if space.n is None:
            raise PackageError("the Discrete action space lacks n")
        return np.array(space.start, dtype=np.float64), np.array(space.start + space.n - 1, dtype=np.float64)
    if space.type == "MultiDiscrete":
        top = np.array(space.nvec, dtype=np.float64).reshape(space.shape) - 1
        return np.zeros_like(top), top
    if space.type == "MultiBinary":
        return np.zeros(space.shape), np.ones(space.shape)
    if space.type != "Box":
        raise PackageError(f"{space.type} action spaces are not served")
    low, high = space.bounds()
    if safety.action_bounds is not None:
        try:
            given = [np.broadcast_to(np.asarray(end, dtype=np.float64), space.shape) for end in safety.action_bounds]
        except ValueError as error:
            raise PackageError(f"safety.action_bounds do not fit actions of shape {space.shape}: {error}") from error
        low, high = np.maximum(low, given[0]), np.minimum(high, given[1])
    span = np.where(np.isfinite(high - low), high - low, 0.0)
    low, high = low + safety.safety_margin * span, high - safety.safety_margin * span
    if not (low <= high).all():
        raise PackageError(f"the safety bounds leave no action: low {low.tolist()}, high {high.tolist()}")
    return low, high


def _inward(low: Array, high: Array, dtype: np.dtype[np.generic]) -> tuple[Array, Array]:
    """Bounds in the action's own dtype, rounded inward, so that no rounding leaves the envelope."""
    if dtype.kind != "f":
        if dtype.kind in "iu":
            info = np.iinfo(dtype.name)
            low, high = np.maximum(np.ceil(low), info.min), np.minimum(np.floor(high), info.max)
        return low.astype(dtype), high.astype(dtype)
    near_low, near_high = low.astype(dtype), high.astype(dtype)
    least, most = np.array(-np.inf, dtype), np.array(np.inf, dtype)
    return (
        np.where(near_low < low, np.nextafter(near_low, most), near_low),
        np.where(near_high > high, np.nextafter(near_high, least), near_high),
    )
