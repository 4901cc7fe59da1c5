"""Challenger minus control for bounded returns: an exact sequential test that no drift of the environment can fool.

Each unit's arm A is a fair coin, independent of everything before it, so the inverse-probability score
X = 2(2A-1)(Y-c), with a centre c computed from units started earlier, has the unit's own expected difference as its
conditional mean, whatever the environment does meanwhile (Horvitz & Thompson 1952; in sequence: Ham, Bojinov, Lindon
& Tingley 2023, "Design-based confidence sequences"). Bets on X (see `betting`) give the test and, inverted, its bounds.
"""

from __future__ import annotations

import math

import numpy as np

from tasks.analysis.betting import Floats, last_rejected, log_wealth
from tasks.analysis.decision import Bools, Bounds, Decision, Objective, both_arms, first_look

METHOD = "betting on inverse-probability scores (exact)"


def scores(challenger: Bools, scaled: Floats) -> tuple[Floats, Floats]:
    """Scores X and their bounds b, |X| <= b, of units in order of start.

    `challenger` [..., n] says the arm, `scaled` [..., n] the return on [0, 1]. The centre of a unit is the mean of
    the returns of all units started earlier (½ for the first), hence b = 2·max(c, 1-c).
    """
    counts = np.arange(scaled.shape[-1])
    earlier = np.cumsum(scaled, axis=-1) - scaled
    centre = np.where(counts > 0, earlier / np.maximum(counts, 1), 0.5).clip(0.0, 1.0)
    score = np.where(challenger, 2.0, -2.0) * (scaled - centre)
    return score, 2.0 * np.maximum(centre, 1.0 - centre)


def wealth_below(score: Floats, bound: Floats, difference: float) -> Floats:
    """Log-wealth [..., n] against "the difference is at most `difference`" (in scaled units)."""
    return log_wealth((score - difference) / (bound + abs(difference)))


def wealth_above(score: Floats, bound: Floats, difference: float) -> Floats:
    """Log-wealth [..., n] against "the difference is at least `difference`" (in scaled units)."""
    return log_wealth((difference - score) / (bound + abs(difference)))


def decide(
    challenger: Bools,
    returns: Floats,
    *,
    bounds: tuple[float, float],
    margin: float,
    alpha: float,
    objective: Objective,
) -> Decision:
    """Look after every unit; stop at the first verdict.

    `challenger` [n] and `returns` [n] are units in order of start, returns within `bounds`; `margin` is in return
    units; `alpha` holds per side. Promotes when the lower bound passes 0 (superiority) or -margin (non_inferiority),
    rolls back when the upper bound falls below 0; never before both arms have a unit. The estimate is the difference
    of the arms' means (null while an arm is empty); the bounds are for the mean of the units' expected differences,
    and trivial at first.
    """
    low, high = bounds
    span = high - low
    score, bound = scores(challenger, (returns - low) / span)
    floor = 0.0 if objective == "superiority" else -margin / span
    threshold = math.log(1.0 / alpha)
    compared = both_arms(challenger)
    verdict, units = first_look(
        compared & (np.maximum.accumulate(wealth_below(score, bound, floor)) >= threshold),
        compared & (np.maximum.accumulate(wealth_above(score, bound, 0.0)) >= threshold),
    )
    lower, upper = confidence(score[:units], bound[:units], alpha, floor)
    return Decision(
        verdict, units, Bounds(estimate(challenger[:units], returns[:units]), lower * span, upper * span, METHOD)
    )


def confidence(score: Floats, bound: Floats, alpha: float, floor: float) -> tuple[float, float]:
    """One-sided lower and upper bounds of the mean difference (scaled units) from scores [n], each at 1-alpha.

    A hypothesised difference is out once the wealth against it has ever reached 1/alpha: the running maximum makes
    the bounds those of the best look so far. `floor` (the difference a promotion must exceed) and 0 are tested
    themselves, so that bounds and verdict agree.
    """
    if len(score) == 0:
        return -1.0, 1.0
    threshold = math.log(1.0 / alpha)
    lower = last_rejected(lambda d: float(wealth_below(score, bound, d).max()) - threshold, -1.0, 1.0, floor)
    mirrored = last_rejected(lambda d: float(wealth_above(score, bound, -d).max()) - threshold, -1.0, 1.0, 0.0)
    return lower, 0.0 - mirrored


def estimate(challenger: Bools, returns: Floats) -> float | None:
    """Mean return of the challenger's units minus that of control's, or None while an arm is empty."""
    if not challenger.any() or challenger.all():
        return None
    return float(returns[challenger].mean() - returns[~challenger].mean())
