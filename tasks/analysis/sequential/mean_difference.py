"""Challenger minus control for bounded returns: an exact sequential test that no drift of the environment can fool.

Each unit's arm A is a fair coin, independent of everything before it, so the inverse-probability score
X = 2(2A-1)(Y-c), with a centre c known before the unit's arm acted (see `centre`), has the unit's own expected
difference as its conditional mean, whatever the environment does meanwhile (Horvitz & Thompson 1952; in sequence: Ham,
Bojinov, Lindon & Tingley 2023, "Design-based confidence sequences"). Hence under "the difference is at most d" the
payoff X - d has a mean of at most 0 and is never below -(b + d), b = 2·max(c, 1-c). Bets on it (see `betting`) with
predictable stakes (see `stakes`) are a test, and inverted its bounds: the wealth falls as d grows, because a stake
λ(d) = min(u/r, .95/(b + d)) makes λ(d)·(X - d) fall, so the differences rejected form an interval.
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
    first_look,
    floor_of,
)
from tasks.analysis.sequential.e_process import Bet, lower_bound
from tasks.analysis.sequential.stakes import Scale, stakes, weights
from tasks.analysis.sequential.wealth import Floats, cut, log_wealth

METHOD = "betting on inverse-probability scores (exact)"


def scores(challenger: Bools, scaled: Floats, covariate: Floats | None = None) -> tuple[Floats, Floats]:
    """Scores X and their bounds b, |X| <= b, of units in order of start.

    `challenger` [..., n] says the arm, `scaled` [..., n] the return on [0, 1], `covariate` [..., n] one number a unit
    known before its arm acted.
    """
    return _scores(challenger, scaled, Centre(0.5, (0.0, 1.0)).feed(scaled, covariate))


def wealth_below(score: Floats, bound: Floats, difference: float, aim: float | None = None) -> Floats:
    """Log-wealth [..., n] against "the difference is at most `difference`" (in scaled units).

    With `aim` most of the wealth is staked as is best where the difference is `difference + aim`.
    """
    square = Scale().feed(score)
    return log_wealth(score - difference, stakes(square, aim), cut(bound + difference), weights(aim))


def wealth_above(score: Floats, bound: Floats, difference: float) -> Floats:
    """Log-wealth [..., n] against "the difference is at least `difference`" (in scaled units)."""
    return wealth_below(-score, bound, -difference)


def decide(
    challenger: Bools,
    returns: Floats,
    *,
    bounds: tuple[float, float],
    margin: float,
    alpha: float,
    objective: Objective,
    floor: float | None = None,
    covariate: Floats | None = None,
) -> Decision:
    """Look after every unit; stop at the first verdict.

    `challenger` [n] and `returns` [n] are units in order of start, returns within `bounds`; `margin` is in return
    units; `alpha` holds per side. Promotes when the lower bound passes `floor` (by default 0 for superiority, -margin
    for non_inferiority), rolls back when the upper bound falls below 0; never before both arms have a unit. The
    estimate is the difference of the arms' means (null while an arm is empty); the bounds are for the mean of the
    units' expected differences, and trivial at first. `covariate` as in `scores`.
    """
    comparison = Comparison(bounds=bounds, margin=margin, alpha=alpha, objective=objective, floor=floor)
    comparison.feed(challenger, returns, covariate)
    return comparison.decision()


class Comparison(TwoArms):
    """The same test fed as units come in, in blocks of any size: the verdict falls at the same unit.

    Feeding costs the same for every unit; `decision` goes over all units to find the bounds. Arguments as `decide`.
    """

    def __init__(
        self,
        *,
        bounds: tuple[float, float],
        margin: float,
        alpha: float,
        objective: Objective,
        floor: float | None = None,
    ) -> None:
        super().__init__()
        self._low, self._span = bounds[0], bounds[1] - bounds[0]
        self._alpha = alpha
        self._floor = (floor_of(objective, margin) if floor is None else floor) / self._span
        self._aim = margin / self._span if objective == "non_inferiority" else None
        self._centre, self._scale = Centre(0.5, (0.0, 1.0)), Scale()
        self._up, self._down = Bet(alpha, self._aim), Bet(alpha)
        self._history: list[tuple[Bools, Floats, Floats, Floats]] = []
        self._compared = BothArms()

    def _take(self, challenger: Bools, returns: Floats, covariate: Floats | None) -> None:
        scaled = (returns - self._low) / self._span
        score, bound = _scores(challenger, scaled, self._centre.feed(scaled, covariate))
        square = self._scale.feed(score)
        compared = self._compared.feed(challenger)
        up = self._up.feed(score - self._floor, bound + self._floor, square)
        down = self._down.feed(-score, bound, square)
        self.verdict, taken = first_look(compared & up, compared & down)
        self.units += taken
        self._history.append((challenger[:taken], returns[:taken], score[:taken], bound[:taken]))

    def decision(self) -> Decision:
        """The verdict, the unit it fell at (or the units taken so far), and the estimate and bounds there."""
        if not self.units:
            return Decision(None, 0, Bounds(None, -self._span, self._span, METHOD))
        challenger, returns, score, bound = (np.concatenate(column) for column in zip(*self._history, strict=True))
        # what the test rejected is out; what it did not is in, though sums taken in another order differ a little
        promoted, rolled_back = self.verdict == "promote", self.verdict == "roll_back"
        least, most = self._floor if promoted else -1.0, 0.0 if rolled_back else 1.0
        lower, upper = confidence(score, bound, self._alpha, self._aim, (least, most))
        lower = lower if promoted else min(lower, self._floor)
        upper = upper if rolled_back else max(upper, 0.0)
        found = Bounds(estimate(challenger, returns), lower * self._span, upper * self._span, METHOD)
        return Decision(self.verdict, self.units, found)


def confidence(
    score: Floats, bound: Floats, alpha: float, aim: float | None = None, known: tuple[float, float] = (-1.0, 1.0)
) -> tuple[float, float]:
    """One-sided lower and upper bounds of the mean difference (scaled units) from scores [n], each at 1-alpha.

    A hypothesised difference is out once the wealth against it has reached 1/alpha, now or at an earlier look: the
    bounds are those of the best look (of every 64th, and the last), and not outside bounds that are `known` already.
    `aim` as in `wealth_below`.
    """
    if len(score) == 0:
        return known
    square, (least, most) = Scale().feed(score), known
    lower = lower_bound(score, bound, square, alpha=alpha, between=(least, 1.0), aim=aim)
    return lower, 0.0 - lower_bound(-score, bound, square, alpha=alpha, between=(-most, 1.0))


def estimate(challenger: Bools, returns: Floats) -> float | None:
    """Mean return of the challenger's units minus that of control's, or None while an arm is empty."""
    if not challenger.any() or challenger.all():
        return None
    return float(returns[challenger].mean() - returns[~challenger].mean())


def _scores(challenger: Bools, scaled: Floats, centre: Floats) -> tuple[Floats, Floats]:
    score = np.where(challenger, 2.0, -2.0) * (scaled - centre)
    return score, 2.0 * np.maximum(centre, 1.0 - centre)
