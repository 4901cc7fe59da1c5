"""Log lines a second: a flood of bad requests, or a broken version under load, must not fill the disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

_SECOND = 1.0


class _Kind:
    def __init__(self, now: float) -> None:
        self.since = now
        self.lines = 0
        self.untold = 0


class Quota:
    """At most so many lines a second of each kind; the next line tells of what was left out. Kinds must be few."""

    def __init__(self, lines: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._lines = lines
        self._clock = clock
        self._kinds: dict[Hashable, _Kind] = {}

    def told(self, kind: Hashable, count: int = 1) -> int:
        """How many a line written now stands for: `count`, and those since the last line. 0: write none now."""
        now = self._clock()
        one = self._kinds.get(kind)
        if one is None:
            one = self._kinds[kind] = _Kind(now)
        elif now - one.since >= _SECOND:
            one.since, one.lines = now, 0
        one.untold += count
        if one.lines >= self._lines:
            return 0
        one.lines += 1
        untold, one.untold = one.untold, 0
        return untold
