"""How fast a canary's units come: its ramp and the policy's traffic."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Ramp:
    """How fast units come: the weights of each arm, units an arm in each step, and units an hour of all traffic.

    `units_per_hour` is null where nobody knows; then there are no hours.
    """

    steps: tuple[float, ...]
    units_per_step: int
    units_per_hour: float | None

    def hours(self, units: float) -> float | None:
        """Hours until `units` of both arms have started."""
        if self.units_per_hour is None:
            return None
        passed = 0.0
        for begin, end, rate in self._stretches():
            if units <= end:
                return passed + (units - begin) / rate
            passed += (end - begin) / rate
        return passed

    def units(self, hours: float) -> float:
        """Units of both arms that start in `hours`."""
        if self.units_per_hour is None:
            return math.inf
        for begin, end, rate in self._stretches():
            if hours <= (end - begin) / rate:
                return begin + hours * rate
            hours -= (end - begin) / rate
        return math.inf

    def _stretches(self) -> Iterator[tuple[float, float, float]]:
        """First and last unit of each step, and units of both arms an hour in it."""
        last = len(self.steps) - 1
        for step, weight in enumerate(self.steps):
            end = math.inf if step == last else 2.0 * self.units_per_step * (step + 1)
            yield 2.0 * self.units_per_step * step, end, 2.0 * weight * (self.units_per_hour or 1.0)
