"""One bet against one hypothesis as units come in, and the bounds that such bets give."""

from __future__ import annotations

import math

import numpy as np

from tasks.analysis.sequential.decision import Bools
from tasks.analysis.sequential.stakes import GRID, stakes, weights
from tasks.analysis.sequential.wealth import Floats, best_log_wealth, cut, last_rejected, log_products, mixed

_REACH = 20.0
"""Standard errors beyond which no mean is looked for when bounds are sought: leaving stakes out only widens them."""


class Bet:
    """Wealth against "the payoff's mean is at most 0", fed in blocks of any size (the same to the last digit).

    `aim` as in `stakes.stakes`. A payoff above what was expected wins.
    """

    def __init__(self, alpha: float, aim: float | None = None) -> None:
        self._aim, self._weights = aim, weights(aim)
        self._needed = math.log(1.0 / alpha)
        self._logs: Floats | float = 0.0
        self._reached = False

    def feed(self, payoffs: Floats, worst: Floats | float, square: Floats) -> Bools:
        """Whether the wealth has reached 1/alpha at or before each of the next units [n].

        `worst` [n] is the most a unit can lose (payoffs are at least -worst), `square` [n] the mean square of earlier
        scores.
        """
        limit = np.broadcast_to(cut(worst), payoffs.shape)
        logs = log_products(payoffs, stakes(square, self._aim), limit, self._logs)
        self._logs = logs[:, -1]
        # a mixture has no more than its best stake has: most of the time that settles it
        if self._reached or float(logs.max()) < self._needed:
            return np.full(payoffs.shape, self._reached)
        reached = np.logical_or.accumulate(mixed(logs, self._weights) >= self._needed)
        self._reached = bool(reached[-1])
        return reached


def lower_bound(
    values: Floats,
    loss: Floats | float,
    square: Floats,
    *,
    alpha: float,
    between: tuple[float, float],
    aim: float | None = None,
) -> float:
    """One-sided lower bound at 1-alpha of the mean of `values` [n], valid at every look together.

    A mean m is out once the wealth against "at most m" has reached 1/alpha, at this look or at an earlier one (of
    every 64th). `loss + m` is the most a unit can lose on that bet: `values` are at least -`loss`. `square` [n] as in
    `Bet.feed`; the answer lies in `between`. Wealth falls as m grows, for the stake min(u/r, .95/(loss + m)) makes
    stake·(value - m) fall: what is rejected is an interval.
    """
    needed = math.log(1.0 / alpha)
    step = math.sqrt(2.0 * (needed + 1.0) * float(square[-1]) / len(values))
    # a stake of u/r needs a mean of u·√n/2 standard errors to gain anything: without the boldest, much is saved
    boldest = max(int(np.searchsorted(GRID, _REACH / math.sqrt(len(values)))), 2)
    staked, shares = stakes(square, aim, boldest), weights(aim, boldest)

    def excess(mean: float) -> float:
        limit = np.broadcast_to(cut(loss + mean), values.shape)
        return best_log_wealth(values - mean, staked, limit, shares) - needed

    return last_rejected(excess, *between, float(values.mean()) - step, 0.2 * step)
