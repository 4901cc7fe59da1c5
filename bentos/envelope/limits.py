"""Limits of continuous actions, each a lowest and a highest action: bounds, rate limit, acceleration limit."""

from __future__ import annotations

import numpy as np

from bentos.envelope.adjustment import ACCELERATION_LIMIT, RATE_LIMIT
from bentos.envelope.entries import Entries
from bentos.package.manifest import Array, PackageError, Space
from bentos.package.safety import AccelerationLimit, Safety, StateIndex
from bentos.rows import Rows


def bounds(space: Space, safety: Safety) -> tuple[Array, Array]:
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
        given = [per_dimension(end, space, "safety.action_bounds") for end in safety.action_bounds]
        low, high = np.maximum(low, given[0]), np.minimum(high, given[1])
    span = np.where(np.isfinite(high - low), high - low, 0.0)
    low, high = low + safety.safety_margin * span, high - safety.safety_margin * span
    if not np.less_equal(*inward(low, high, np.dtype(space.dtype))).all():
        raise PackageError(f"the safety bounds leave no action: low {low.tolist()}, high {high.tolist()}")
    return low, high


def per_dimension(value: float | list[float], space: Space, name: str) -> Array:
    """A number, or one for each entry of an action, as float64 of the action's shape. Raises PackageError."""
    try:
        return np.broadcast_to(np.asarray(value, dtype=np.float64), space.shape)
    except ValueError as error:
        raise PackageError(f"{name}: expected one number or actions of shape {space.shape}: {error}") from error


def inward(low: Array, high: Array, dtype: np.dtype[np.generic]) -> tuple[Array, Array]:
    """Bounds in the action's own dtype, rounded inward, so that no rounding leaves the envelope.

    Where no number of that dtype lies between them, the low one comes out above the high one.
    """
    if dtype.kind != "f":
        info = np.iinfo(dtype.name)
        least, most = float(info.min), float(info.max)
        if most > info.max:  # 2**63 - 1 as a float is 2**63, which no int64 holds
            most = float(np.nextafter(most, 0.0))
        return np.clip(np.ceil(low), least, most).astype(dtype), np.clip(np.floor(high), least, most).astype(dtype)
    with np.errstate(over="ignore"):
        near_low, near_high = low.astype(dtype), high.astype(dtype)
    up, down = np.array(np.inf, dtype), np.array(-np.inf, dtype)
    return (
        np.where(near_low < low, np.nextafter(near_low, up), near_low),
        np.where(near_high > high, np.nextafter(near_high, down), near_high),
    )


def intersect(low: Array, high: Array, limit_low: Array, limit_high: Array) -> tuple[Array, Array, Array]:
    """The box [n, d] cut to a limit's intervals, and where (bool [n, d]) there was nothing left.

    There the box shrinks to its point next to the interval: of two limits that contradict each other the earlier holds,
    and the later is missed by as little as possible.
    """
    cut_low, cut_high = np.maximum(low, limit_low), np.minimum(high, limit_high)
    empty = cut_low > cut_high
    if empty.any():
        nearest = np.minimum(np.maximum(low, np.minimum(limit_low, limit_high)), high)
        cut_low, cut_high = np.where(empty, nearest, cut_low), np.where(empty, nearest, cut_high)
    return cut_low, cut_high, empty


class RateLimit:
    """|action - last action| <= `limit`, per dimension, in action units a step. A row without a last action is free."""

    reason = RATE_LIMIT

    def __init__(self, limit: float | list[float], space: Space) -> None:
        """Raises PackageError for a limit that does not fit the actions."""
        self._most = per_dimension(limit, space, "safety.rate_limit").reshape(-1)
        if not (self._most >= 0).all():
            raise PackageError(f"safety.rate_limit: expected numbers of at least 0, came {limit}")

    def interval(self, rows: Rows) -> tuple[Array, Array] | None:
        """Lowest and highest action of every row, float64 [n, d]; None where no row has a last action."""
        if rows.states is None:
            return None
        low = np.full((rows.size, len(self._most)), -np.inf)
        high = np.full((rows.size, len(self._most)), np.inf)
        found = False
        for row, state in enumerate(rows.states):
            if state is not None and state.action is not None:
                found = True
                last = np.asarray(state.action, dtype=np.float64)
                low[row], high[row] = last - self._most, last + self._most
        return (low, high) if found else None


_NAME = "safety.acceleration_limit"


class Acceleration:
    """|v' - v| <= maximum * dt, per dimension, where the action is v' itself or takes v to v' = v + action * dt."""

    reason = ACCELERATION_LIMIT

    def __init__(self, limit: AccelerationLimit, space: Space, observations: Space | None) -> None:
        """Raises PackageError for a limit that does not fit the actions or the observations."""
        maximum = per_dimension(limit.maximum, space, f"{_NAME}.maximum").reshape(-1)
        if not (maximum >= 0).all():
            raise PackageError(f"{_NAME}.maximum: expected numbers of at least 0, came {limit.maximum}")
        self._velocities: Entries | None = None
        self._limited = np.arange(len(maximum))
        self._dimensions = len(maximum)
        self._most = maximum
        if limit.action == "acceleration":
            return  # |v + a * dt - v| <= maximum * dt says |a| <= maximum
        if limit.dt is None or not limit.dt > 0 or limit.state_index is None:
            raise PackageError(f"{_NAME}: a velocity needs `dt` (s, above 0) and `state_index`, came {limit}")
        places = _places(limit.state_index, len(maximum))
        self._limited = np.array([dimension for dimension, place in enumerate(places) if place is not None])
        self._velocities = Entries(observations, [place for place in places if place is not None], _NAME)
        self._most = maximum[self._limited] * limit.dt

    def interval(self, rows: Rows) -> tuple[Array, Array]:
        """Lowest and highest action of every row, float64 [n, d]; infinite where a dimension is not limited."""
        low = np.full((rows.size, self._dimensions), -np.inf)
        high = np.full((rows.size, self._dimensions), np.inf)
        now = 0.0 if self._velocities is None else self._velocities.read(rows.feeds, rows.size)
        low[:, self._limited], high[:, self._limited] = now - self._most, now + self._most
        return low, high


def _places(given: int | list[int | None] | StateIndex, dimensions: int) -> list[tuple[str | None, int] | None]:
    key, index = (given.key, given.index) if isinstance(given, StateIndex) else (None, given)
    indices = [index] * dimensions if isinstance(index, int) else index
    if len(indices) != dimensions or all(one is None for one in indices):
        raise PackageError(
            f"{_NAME}.state_index: expected one index, or one for each of {dimensions} action dimensions (null for "
            f"those without a limit), came {index}"
        )
    return [None if one is None else (key, one) for one in indices]
