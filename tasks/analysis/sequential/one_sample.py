"""The mean of bounded returns against a threshold: the test of a first release, which has no champion beside it."""

from __future__ import annotations

import numpy as np

from tasks.analysis.sequential.decision import PART, Bounds, Decision, Verdict, first_look
from tasks.analysis.sequential.e_process import Bet, lower_bound
from tasks.analysis.sequential.stakes import Scale
from tasks.analysis.sequential.wealth import Floats

METHOD = "betting on a bounded mean (exact)"


def decide(returns: Floats, *, bounds: tuple[float, float], threshold: float, alpha: float) -> Decision:
    """Look after every unit; stop at the first verdict.

    `returns` [n] are units in order of start, within `bounds`. Promotes when the lower bound of the mean passes
    `threshold` (in return units), rolls back when the upper bound falls below it; `alpha` holds per side. The mean
    is that of the units' conditional expectations, so it may drift.
    """
    sample = Sample(bounds=bounds, threshold=threshold, alpha=alpha)
    sample.feed(returns)
    return sample.decision()


class Sample:
    """The same test fed as units come in, in blocks of any size: the verdict falls at the same unit.

    Bets on Y - m and m - Y (betting, section 4, one-sided), Y the return on [0, 1] and m the threshold; their scale is
    that of Y - m at earlier units.
    """

    def __init__(self, *, bounds: tuple[float, float], threshold: float, alpha: float) -> None:
        self._low, self._span = bounds[0], bounds[1] - bounds[0]
        self._alpha, self._goal = alpha, (threshold - self._low) / self._span
        self._scale = Scale()
        self._up, self._down = Bet(alpha), Bet(alpha)
        self._history: list[Floats] = []
        self.verdict: Verdict | None = None
        self.units = 0

    def feed(self, returns: Floats) -> Verdict | None:
        """Take the next units [n] in order of start; the verdict so far. After a verdict nothing more is taken."""
        for begin in range(0, len(returns), PART):
            if self.verdict is not None:
                break
            self._take((returns[begin : begin + PART] - self._low) / self._span)
        return self.verdict

    def _take(self, scaled: Floats) -> None:
        goal, ahead = self._goal, scaled - self._goal
        square = self._scale.feed(ahead)
        up = self._up.feed(ahead, goal, square)
        down = self._down.feed(-ahead, 1.0 - goal, square)
        # at an end of the range or beyond it, no mean of returns is needed: one return on its inner side tells
        if goal <= 0.0:
            up = up | (ahead > 0.0)
        if goal >= 1.0:
            down = down | (ahead < 0.0)
        self.verdict, taken = first_look(up, down)
        self.units += taken
        self._history.append(scaled[:taken])

    def decision(self) -> Decision:
        """The verdict, the unit it fell at (or the units taken so far), and the mean and its bounds there."""
        if not self.units:
            return Decision(None, 0, Bounds(None, self._low, self._low + self._span, METHOD))
        scaled, goal = np.concatenate(self._history), min(max(self._goal, 0.0), 1.0)
        promoted, rolled_back = self.verdict == "promote", self.verdict == "roll_back"
        known = (goal if promoted else 0.0, goal if rolled_back else 1.0)
        lower, upper = confidence(scaled, self._alpha, goal, known)
        lower = lower if promoted else min(lower, goal)
        upper = upper if rolled_back else max(upper, goal)
        low, span = self._low, self._span
        return Decision(
            self.verdict,
            self.units,
            Bounds(low + float(scaled.mean()) * span, low + lower * span, low + upper * span, METHOD),
        )


def confidence(
    scaled: Floats, alpha: float, goal: float, known: tuple[float, float] = (0.0, 1.0)
) -> tuple[float, float]:
    """One-sided lower and upper bounds of the mean of `scaled` [n], returns on [0, 1], each at 1-alpha, every look.

    `goal` is the mean that the bets are scaled for: bounds are sharpest near it. They are not outside those `known`.
    """
    if len(scaled) == 0:
        return known
    square, (least, most) = Scale().feed(scaled - goal), known
    lower = lower_bound(scaled, 0.0, square, alpha=alpha, between=(least, 1.0))
    return lower, 1.0 - lower_bound(1.0 - scaled, 0.0, square, alpha=alpha, between=(1.0 - most, 1.0))
