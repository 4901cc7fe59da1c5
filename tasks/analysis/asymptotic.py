"""Sequential tests for returns without bounds: valid in the limit only, and named so in every verdict.

Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024, "Time-uniform central limit theory and asymptotic confidence
sequences", Annals of Statistics: the one-sided Gaussian-mixture boundary (Proposition B.1 there), on their doubly
robust scores (section 3), which for a fair coin are the inverse-probability scores of `mean_difference`.
"""

from __future__ import annotations

import numpy as np

from tasks.analysis.betting import Floats
from tasks.analysis.decision import Bools, Bounds, Decision, Objective, both_arms, first_look
from tasks.analysis.mean_difference import estimate

METHOD = "asymptotic confidence sequence (not exact: returns have no bounds)"

CENTRE_UNITS = 4
"""The first units only set the centre: a score against an arbitrary centre could be of any size."""

BURN_IN = 34
"""Scores before the first look: the limit theorem needs some, and heavy tails need more than textbooks say."""

TUNED_UNITS = 400
"""Number of units at which the boundary is tightest (ibid., section 2.3)."""


def boundary(units: Floats, alpha: float) -> Floats:
    """Half-width in standard deviations after `units` units: ibid., Proposition B.1, tuned to `TUNED_UNITS`."""
    log = -2.0 * np.log(2.0 * alpha)
    square = units * (log + np.log(log + 1.0) + 1.0) / TUNED_UNITS
    return np.sqrt(2.0 * (square + 1.0) / (units * square) * np.log1p(np.sqrt(square + 1.0) / (2.0 * alpha)))


def sequence(values: Floats, alpha: float, least_deviation: float) -> tuple[Floats, Floats, Floats]:
    """Running mean and one-sided lower and upper bounds of `values` [n], each [n]; infinite before the burn-in.

    The running standard deviation is never taken below `least_deviation`, so that a run of equal values does not
    pass for certainty.
    """
    counts = np.arange(1.0, len(values) + 1.0)
    offset = values[:1].mean() if len(values) else 0.0
    shifted = values - offset
    mean = np.cumsum(shifted) / counts
    variance = np.maximum(np.cumsum(shifted**2) / counts - mean**2, 0.0)
    half = np.maximum(np.sqrt(variance), least_deviation) * boundary(counts, alpha)
    half[counts < BURN_IN] = np.inf
    centre = mean + offset
    return centre, centre - half, centre + half


def scores(challenger: Bools, returns: Floats) -> Floats:
    """Inverse-probability scores X = 2(2A-1)(Y-c) of all units but the first `CENTRE_UNITS`, in return units.

    The centre c is the mean of the returns of all units started earlier.
    """
    counts = np.arange(len(returns))
    earlier = np.cumsum(returns) - returns
    centre = earlier / np.maximum(counts, 1)
    return (np.where(challenger, 2.0, -2.0) * (returns - centre))[CENTRE_UNITS:]


def decide(challenger: Bools, returns: Floats, *, margin: float, alpha: float, objective: Objective) -> Decision:
    """Look after every unit; stop at the first verdict. Arguments and rules as `mean_difference.decide`, unbounded.

    Returns are taken to deviate by at least `margin`, hence scores by twice that.
    """
    score = scores(challenger, returns)
    _, lower, upper = sequence(score, alpha, least_deviation=2.0 * margin)
    floor = 0.0 if objective == "superiority" else -margin
    compared = both_arms(challenger)[CENTRE_UNITS:]
    verdict, looks = first_look(compared & (lower > floor), compared & (upper < 0.0))
    units = min(looks + CENTRE_UNITS, len(returns)) if verdict else len(returns)
    return Decision(
        verdict, units, _bounds(estimate(challenger[:units], returns[:units]), lower[:looks], upper[:looks])
    )


def decide_threshold(returns: Floats, *, threshold: float, margin: float, alpha: float) -> Decision:
    """The mean of `returns` [n] against `threshold`, as `one_sample.decide`, unbounded."""
    _, lower, upper = sequence(returns, alpha, least_deviation=margin)
    verdict, units = first_look(lower > threshold, upper < threshold)
    estimated = float(returns[:units].mean()) if units else None
    return Decision(verdict, units, _bounds(estimated, lower[:units], upper[:units]))


def _bounds(estimated: float | None, lower: Floats, upper: Floats) -> Bounds:
    known = len(lower) > 0 and bool(np.isfinite(lower[-1]))
    return Bounds(estimated, float(lower[-1]) if known else None, float(upper[-1]) if known else None, METHOD)
