"""A breaker: after enough consecutive faults a version is left alone for a while, then probed."""

from __future__ import annotations

import time
from collections.abc import Callable

COOL_DOWN_SECONDS = 5.0


class Breaker:
    """Opens after `max_errors` consecutive faulty calls; after a cool-down lets one call through as a probe.

    `opened` is called each time it opens afresh (not when a probe fails). `clock` returns seconds.
    """

    def __init__(
        self,
        max_errors: int,
        opened: Callable[[str], None],
        cool_down: float = COOL_DOWN_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_errors = max_errors
        self._opened = opened
        self._cool_down = cool_down
        self._clock = clock
        self._consecutive = 0
        self._probe_at: float | None = None
        self._probing = False
        self.calm = True
        """Closed, without a fault since the last success: there is nothing to ask it and nothing to tell it."""

    @property
    def open(self) -> bool:
        """Whether calls are being kept away (a probe may be under way)."""
        return self._probe_at is not None

    def allows(self) -> bool:
        """Whether a call may be made now. When open, one call a cool-down is allowed: the probe."""
        if self._probe_at is None:
            return True
        now = self._clock()
        if now < self._probe_at:
            return False
        self._probe_at = now + self._cool_down
        self._probing = True
        return True

    def success(self) -> None:
        """A call went well: faults are counted anew. An open breaker is closed by its probe alone.

        Calls that began before it opened may end well after: that says nothing of the faults since.
        """
        self._consecutive = 0
        if self._probing:
            self._probing = False
            self._probe_at = None
        self.calm = self._probe_at is None

    def fault(self, reason: str) -> None:
        """A call was faulty."""
        self.calm = False
        self._consecutive += 1
        self._probing = False
        if self._probe_at is None and self._consecutive >= self._max_errors:
            self._probe_at = self._clock() + self._cool_down
            self._opened(f"{self._consecutive} consecutive faults, the last: {reason}")
