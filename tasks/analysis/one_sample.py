"""The mean of bounded returns against a threshold: the test of a first release, which has no champion beside it."""

from __future__ import annotations

import math

import numpy as np

from tasks.analysis.betting import Floats, last_rejected, log_wealth
from tasks.analysis.decision import Bounds, Decision, first_look

METHOD = "betting on a bounded mean (exact)"
_LEAST = 0.01
"""Hypotheses nearer than this to an end bet as if this far from it: payoffs stay below 100, and a bet stays safe."""


def wealth_below(scaled: Floats, mean: float) -> Floats:
    """Log-wealth [..., n] against "the mean is at most `mean`": payoffs (Y-m)/m (betting, section 4, one-sided)."""
    return log_wealth((scaled - mean) / max(mean, _LEAST))


def wealth_above(scaled: Floats, mean: float) -> Floats:
    """Log-wealth [..., n] against "the mean is at least `mean`": payoffs (m-Y)/(1-m)."""
    return log_wealth((mean - scaled) / max(1.0 - mean, _LEAST))


def decide(returns: Floats, *, bounds: tuple[float, float], threshold: float, alpha: float) -> Decision:
    """Look after every unit; stop at the first verdict.

    `returns` [n] are units in order of start, within `bounds`. Promotes when the lower bound of the mean passes
    `threshold` (in return units), rolls back when the upper bound falls below it; `alpha` holds per side. The mean
    is that of the units' conditional expectations, so it may drift.
    """
    low, high = bounds
    span = high - low
    scaled = (returns - low) / span
    goal = min(max((threshold - low) / span, 0.0), 1.0)
    needed = math.log(1.0 / alpha)
    looks = np.ones(len(returns), dtype=bool)
    verdict, units = first_look(
        looks & (threshold < low) if threshold < low else wealth_below(scaled, goal) >= needed,
        looks & (threshold > high) if threshold > high else wealth_above(scaled, goal) >= needed,
    )
    lower, upper = confidence(scaled[:units], alpha, goal)
    estimate = float(returns[:units].mean()) if units else None
    return Decision(verdict, units, Bounds(estimate, low + lower * span, low + upper * span, METHOD))


def confidence(scaled: Floats, alpha: float, hint: float) -> tuple[float, float]:
    """One-sided lower and upper bounds of the mean of `scaled` [n], returns on [0, 1], each at 1-alpha, every look."""
    if len(scaled) == 0:
        return 0.0, 1.0
    needed = math.log(1.0 / alpha)
    lower = last_rejected(lambda m: float(wealth_below(scaled, m).max()) - needed, 0.0, 1.0, hint)
    mirrored = last_rejected(lambda m: float(wealth_above(scaled, 1.0 - m).max()) - needed, 0.0, 1.0, 1.0 - hint)
    return lower, 1.0 - mirrored
