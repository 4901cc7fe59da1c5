"""The acceleration limit: how fast an action may change a velocity that is part of the observation."""

from __future__ import annotations

import numpy as np

from bentos.envelope.adjustment import ACCELERATION_LIMIT
from bentos.envelope.entries import Entries
from bentos.envelope.limits import per_dimension
from bentos.package.manifest import Array, PackageError, Space
from bentos.package.safety import AccelerationLimit, StateIndex
from bentos.rows import Rows

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
