"""What a canary would come to: the judge's own primary test on canaries simulated from the champion's returns.

A simulated unit is a fair coin and a return drawn from the champion's (the bootstrap: Efron 1979); the challenger's
returns are all moved by the same amount, within the bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tasks.analysis.sequential import asymptotic, mean_difference
from tasks.analysis.sequential.wealth import Floats
from tasks.canary.simulation import Ended, Rules, moved, play
from tasks.spec.sections import Canary

MINIMUM_RETURNS = 20
FARTHEST = 5
"""A larger budget is looked for up to so many times the spec's."""

_LARGEST_MARGIN, _LARGEST_GAIN = 2.0, 3.0
"""The largest margin and gain tried as suggestions, in standard deviations of the champion's returns."""

_SHARES: Floats = np.geomspace(0.01, 1.0, 41)
"""Shares of the largest that are tried."""


@dataclass(frozen=True)
class Prospect:
    """What becomes of canaries whose challenger truly differs by `difference` (return units).

    Shares of them by verdict; units an arm and hours until it, budgets' ends included. All null where the bounds leave
    no room for such a difference.
    """

    name: str
    difference: float
    promote: float | None = None
    roll_back: float | None = None
    inconclusive: float | None = None
    mean_units_per_arm: float | None = None
    median_units_per_arm: float | None = None
    mean_hours: float | None = None
    median_hours: float | None = None


@dataclass(frozen=True)
class Suggestion:
    """What would promote with the wished probability, everything else as it is; null: nothing that was tried.

    For non_inferiority, with equal arms: the smallest `margin`, and the smallest `max_units_per_arm` (up to `tried`).
    For superiority, where equal arms are not to be promoted: the smallest true `gain`.
    """

    probability: float
    margin: float | None = None
    max_units_per_arm: int | None = None
    gain: float | None = None
    tried: float = 0.0


class Planner:
    """Simulates canaries of one champion: `canaries` of them for every question, the same draws each time (`seed`)."""

    def __init__(
        self,
        returns: Sequence[float] | Floats,
        canary: Canary,
        units_per_hour: float | None = None,
        canaries: int = 500,
        seed: int = 0,
    ) -> None:
        """`returns` [n] of the champion; `canary` is the spec's section. Raises ValueError where they do not fit."""
        values = np.asarray(returns, dtype=np.float64)
        _check(values, canary)
        self.bounds = canary.bounds
        self.returns = values.clip(*canary.return_clip) if canary.return_clip else values
        self.mean, self.deviation = float(self.returns.mean()), float(self.returns.std(ddof=1))
        self.ramp = Ramp(tuple(canary.steps), canary.units_per_step, units_per_hour)
        self.rules = Rules(
            canary.objective,
            canary.margin,
            canary.alpha,
            self.bounds,
            canary.max_units_per_arm,
            int(min(2.0 * canary.max_units_per_arm, self.ramp.units(canary.max_hours))),
        )
        if self.rules.max_units < 2:
            raise ValueError(
                f"at {units_per_hour:g} units an hour no two units start within the spec's {canary.max_hours:g} hours"
            )
        self._canaries, self._seed = canaries, seed
        span = self.bounds[1] - self.bounds[0] if self.bounds else max(abs(self.mean), 1.0)
        self._scale = self.deviation if self.deviation > 1e-9 * span else 0.01 * span

    def differences(self) -> list[tuple[str, float]]:
        """The true differences worth knowing about, by name, in return units, falling."""
        named = [("equal", 0.0), ("the margin gained", self.rules.margin), ("the margin lost", -self.rules.margin)]
        gains = (0.2, 0.5, 1.0) if self.rules.objective == "superiority" else ()
        for size in (*gains, -0.2, -0.5, -1.0, -2.0):
            if self.deviation > 0:
                named.append((f"{size:+g} SD", size * self.deviation))
        return sorted(named, key=lambda pair: -pair[1])

    def prospect(self, name: str, difference: float) -> Prospect:
        """What becomes of canaries with this true difference."""
        challenger = moved(self.returns, difference, self.bounds)
        if challenger is None:
            return Prospect(name, difference)
        ended = self._play(self.rules, challenger)
        units = np.array([one.units for one in ended]) / 2.0
        hours = [self.ramp.hours(one.units) for one in ended]
        known = [hour for hour in hours if hour is not None]
        return Prospect(
            name,
            difference,
            promote=_share(ended, "promote"),
            roll_back=_share(ended, "roll_back"),
            inconclusive=_share(ended, "inconclusive"),
            mean_units_per_arm=float(units.mean()),
            median_units_per_arm=float(np.median(units)),
            mean_hours=float(np.mean(known)) if known else None,
            median_hours=float(np.median(known)) if known else None,
        )

    def suggest(self, probability: float, on_step: Callable[[str], None] = lambda _: None) -> Suggestion:
        """What would promote with `probability`; `on_step` hears what is being tried."""
        rules = self.rules
        if rules.objective == "superiority":
            room = 0.99 * (self.bounds[1] - self.mean) if self.bounds else math.inf
            gains = _SHARES * max(min(_LARGEST_GAIN * self._scale, room), 1e-9 * self._scale)

            def gained(gain: float) -> float:
                on_step(f"a true gain of {gain:.4g}")
                challenger = moved(self.returns, gain, self.bounds)
                return 0.0 if challenger is None else _share(self._play(rules, challenger), "promote")

            return Suggestion(probability, gain=_first(gains, gained, probability), tried=float(gains[-1]))
        margins = _SHARES * _LARGEST_MARGIN * self._scale

        def kept(margin: float) -> float:
            on_step(f"a margin of {margin:.4g}")
            return _share(self._play(replace(rules, margin=margin), self.returns), "promote")

        margin = _first(margins, kept, probability)
        most = FARTHEST * rules.max_units_per_arm
        on_step(f"a budget of up to {most} units an arm")
        longer = self._play(replace(rules, max_units_per_arm=most, max_units=2 * most), self.returns)
        needed = sorted(one.per_arm for one in longer if one.verdict == "promote")
        place = math.ceil(probability * len(longer)) - 1
        units = needed[place] if place < len(needed) else None
        return Suggestion(probability, margin=margin, max_units_per_arm=units, tried=most)

    def document(self, prospects: Sequence[Prospect], suggestion: Suggestion | None) -> dict[str, Any]:
        """Everything as plain JSON. `uncertainty` is the largest half-width of a share's 95 % interval."""
        rules = self.rules
        return {
            "objective": rules.objective,
            "margin": rules.margin,
            "alpha": rules.alpha,
            "bounds": list(rules.bounds) if rules.bounds else None,
            "method": asymptotic.METHOD if rules.bounds is None else mean_difference.METHOD,
            "max_units_per_arm": rules.max_units_per_arm,
            "units_per_hour": self.ramp.units_per_hour,
            "champion": {"returns": len(self.returns), "mean": self.mean, "standard_deviation": self.deviation},
            "canaries": self._canaries,
            "seed": self._seed,
            "uncertainty": 1.96 * 0.5 / math.sqrt(self._canaries),
            "differences": [asdict(prospect) for prospect in prospects],
            "suggestion": asdict(suggestion) if suggestion else None,
        }

    def _play(self, rules: Rules, challenger: Floats) -> list[Ended]:
        return [
            play(rules, self.returns, challenger, np.random.default_rng([self._seed, number]))
            for number in range(self._canaries)
        ]


def _first(values: Floats, share: Callable[[float], float], wished: float) -> float | None:
    """The first of rising `values` whose `share` reaches `wished`, to three digits; None: not even the last does."""
    if share(float(values[-1])) < wished:
        return None
    below, reached = -1, len(values) - 1
    while reached - below > 1:
        middle = (below + reached) // 2
        if share(float(values[middle])) >= wished:
            reached = middle
        else:
            below = middle
    return float(f"{values[reached]:.3g}")


def _share(ended: Sequence[Ended], verdict: str) -> float:
    return sum(one.verdict == verdict for one in ended) / len(ended)


def _check(returns: Floats, canary: Canary) -> None:
    if len(returns) < MINIMUM_RETURNS:
        raise ValueError(f"a plan needs at least {MINIMUM_RETURNS} returns of the champion, came {len(returns)}")
    if not np.isfinite(returns).all():
        raise ValueError(f"return {int(np.argmin(np.isfinite(returns))) + 1} of {len(returns)} is not finite")
    if canary.return_range is not None:
        low, high = canary.return_range
        outside = (returns < low) | (returns > high)
        if outside.any():
            raise ValueError(
                f"return {int(np.argmax(outside)) + 1}, {returns[outside][0]:g}, lies outside the spec's return_range "
                f"[{low:g}, {high:g}]"
            )


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
