"""Sequential tests for returns without bounds: valid in the limit only, and named so in every verdict.

Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024, "Time-uniform central limit theory and asymptotic confidence
sequences", Annals of Statistics: the one-sided Gaussian-mixture boundary (Proposition B.1 there), on their doubly
robust scores (section 3), which for a fair coin are the inverse-probability scores of `mean_difference`.
"""

from __future__ import annotations

import numpy as np

from tasks.analysis.sequential.centre import Centre
from tasks.analysis.sequential.decision import (
    Bools,
    BothArms,
    Bounds,
    Decision,
    Objective,
    TwoArms,
    Verdict,
    first_look,
    floor_of,
)
from tasks.analysis.sequential.mean_difference import estimate
from tasks.analysis.sequential.wealth import Floats

METHOD = "asymptotic confidence sequence (not exact: returns have no bounds)"

CENTRE_UNITS = 4
"""The first units only set the centre: a score against an arbitrary centre could be of any size."""

BURN_IN = 34
"""Scores before the first look: the limit theorem needs some, and heavy tails need more than textbooks say."""

PROMOTION_UNITS = 150
"""Scores before a promotion: it can wait, and skewed returns mislead longest about their mean."""

TUNED_UNITS = 345
"""Number of units at which the boundary is tightest (ibid., section 2.3)."""


def boundary(units: Floats, alpha: float) -> Floats:
    """Half-width in standard deviations after `units` units: ibid., Proposition B.1, tuned to `TUNED_UNITS`."""
    log = -2.0 * np.log(2.0 * alpha)
    square = units * (log + np.log(log + 1.0)) / TUNED_UNITS
    return np.sqrt(2.0 * (square + 1.0) / (units * square) * np.log1p(np.sqrt(square + 1.0) / (2.0 * alpha)))


class Sequence:
    """One-sided lower and upper bounds of a mean, fed in blocks of any size (the same to the last digit).

    Infinite before the burn-in. The running standard deviation is never taken below `least_deviation`, so that a run
    of equal values does not pass for certainty. Leading axes of the arrays are independent sequences.
    """

    def __init__(self, alpha: float, least_deviation: float) -> None:
        self._alpha, self._least = alpha, least_deviation
        self._offset: Floats | None = None
        self._sum: Floats | float = 0.0
        self._square: Floats | float = 0.0
        self._seen = 0

    def feed(self, values: Floats) -> tuple[Floats, Floats]:
        """Bounds after each of the next values [..., n], each [..., n]."""
        if not values.shape[-1]:
            return values, values
        if self._offset is None:
            self._offset = values[..., :1].copy()
        shifted = values - self._offset
        squares = shifted * shifted
        shifted[..., 0] += self._sum
        squares[..., 0] += self._square
        np.cumsum(shifted, axis=-1, out=shifted)
        np.cumsum(squares, axis=-1, out=squares)
        counts = self._seen + np.arange(1.0, values.shape[-1] + 1.0)
        self._sum, self._square, self._seen = shifted[..., -1], squares[..., -1], int(counts[-1])
        mean = shifted / counts
        deviation = np.sqrt(np.maximum(squares / counts - mean**2, 0.0))
        half = np.maximum(deviation, self._least) * boundary(counts, self._alpha)
        half[..., counts < BURN_IN] = np.inf
        centre = mean + self._offset
        return centre - half, centre + half


def scores(challenger: Bools, returns: Floats, covariate: Floats | None = None) -> Floats:
    """Inverse-probability scores X = 2(2A-1)(Y-c) of all units [..., n], in return units; the first is arbitrary."""
    return np.where(challenger, 2.0, -2.0) * (returns - Centre().feed(returns, covariate))


def decide(
    challenger: Bools,
    returns: Floats,
    *,
    margin: float,
    alpha: float,
    objective: Objective,
    floor: float | None = None,
    covariate: Floats | None = None,
) -> Decision:
    """Look after every unit; stop at the first verdict. Arguments and rules as `mean_difference.decide`, unbounded.

    Returns are taken to deviate by at least `margin`, hence scores by twice that.
    """
    comparison = Comparison(margin=margin, alpha=alpha, objective=objective, floor=floor)
    comparison.feed(challenger, returns, covariate)
    return comparison.decision()


class Comparison(TwoArms):
    """The same test fed as units come in, in blocks of any size: the verdict falls at the same unit.

    Feeding costs the same for every unit, and `decision` nothing but the arms' means. Arguments as `decide`.
    """

    def __init__(self, *, margin: float, alpha: float, objective: Objective, floor: float | None = None) -> None:
        super().__init__()
        self._floor = floor_of(objective, margin) if floor is None else floor
        self._centre, self._compared = Centre(), BothArms()
        self._sequence = Sequence(alpha, 2.0 * margin)
        self._bounds: tuple[float, float] = (-np.inf, np.inf)
        self._history: list[tuple[Bools, Floats]] = []

    def _take(self, challenger: Bools, returns: Floats, covariate: Floats | None) -> None:
        score = np.where(challenger, 2.0, -2.0) * (returns - self._centre.feed(returns, covariate))
        compared = self._compared.feed(challenger)
        skipped = min(max(CENTRE_UNITS - self.units, 0), len(returns))
        lower, upper = self._sequence.feed(score[skipped:])
        lower = _ripe(lower, self._floor, max(self.units - CENTRE_UNITS, 0))
        compared = compared[skipped:]
        self.verdict, looks = first_look(compared & (lower > self._floor), compared & (upper < 0.0))
        taken = skipped + looks
        if looks:
            self._bounds = float(lower[looks - 1]), float(upper[looks - 1])
        self.units += taken
        self._history.append((challenger[:taken], returns[:taken]))

    def decision(self) -> Decision:
        """The verdict, the unit it fell at (or the units taken so far), and the estimate and bounds there."""
        estimated = (
            estimate(*(np.concatenate(column) for column in zip(*self._history, strict=True))) if self.units else None
        )
        return Decision(self.verdict, self.units, _bounds(estimated, *self._bounds))


def decide_threshold(returns: Floats, *, threshold: float, margin: float, alpha: float) -> Decision:
    """The mean of `returns` [n] against `threshold`, as `one_sample.decide`, unbounded."""
    sample = Sample(threshold=threshold, margin=margin, alpha=alpha)
    sample.feed(returns)
    return sample.decision()


class Sample:
    """`decide_threshold` fed as units come in, in blocks of any size: the verdict falls at the same unit."""

    def __init__(self, *, threshold: float, margin: float, alpha: float) -> None:
        self._threshold = threshold
        self._sequence = Sequence(alpha, margin)
        self._bounds: tuple[float, float] = (-np.inf, np.inf)
        self._sum = 0.0
        self.verdict: Verdict | None = None
        self.units = 0

    def feed(self, returns: Floats) -> Verdict | None:
        """Take the next units [n] in order of start; the verdict so far. After a verdict nothing more is taken."""
        if self.verdict is not None or not len(returns):
            return self.verdict
        lower, upper = self._sequence.feed(returns)
        lower = _ripe(lower, self._threshold, self.units)
        self.verdict, taken = first_look(lower > self._threshold, upper < self._threshold)
        self._bounds = float(lower[taken - 1]), float(upper[taken - 1])
        self._sum += float(returns[:taken].sum())
        self.units += taken
        return self.verdict

    def decision(self) -> Decision:
        """The verdict, the unit it fell at (or the units taken so far), and the mean and its bounds there."""
        return Decision(
            self.verdict, self.units, _bounds(self._sum / self.units if self.units else None, *self._bounds)
        )


def _ripe(lower: Floats, goal: float, before: int) -> Floats:
    """Lower bounds [n] after `before` scores, which pass what a promotion must show only from `PROMOTION_UNITS` on."""
    young = np.arange(before + 1, before + len(lower) + 1) < PROMOTION_UNITS
    return np.where(young, np.minimum(lower, goal), lower)


def _bounds(estimated: float | None, lower: float, upper: float) -> Bounds:
    known = bool(np.isfinite(lower))
    return Bounds(estimated, lower if known else None, upper if known else None, METHOD)
