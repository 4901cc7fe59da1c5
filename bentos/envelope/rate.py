"""The rate limit: how far an action may lie from the episode's last one, which the signed state token carries."""

from __future__ import annotations

import numpy as np

from bentos.envelope.adjustment import RATE_LIMIT
from bentos.envelope.limits import per_dimension
from bentos.package.manifest import Array, PackageError, Space
from bentos.rows import Rows


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
