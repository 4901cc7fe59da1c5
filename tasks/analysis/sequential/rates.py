"""How often something befalls a unit (a fault, a fallback, an adjustment, abandonment), challenger against control.

Only units it befell are looked at. Arms are fair coins, so while it is at most `ratio` times as likely under the
challenger, each such unit is the challenger's with probability at most p = ratio / (1 + ratio), whatever the rate is,
and whatever the environment makes of it. Likelihood ratios of q to p, mixed over q, are an e-process (Wald 1945;
Robbins 1970, "Statistical methods related to the law of the iterated logarithm", on mixtures).

The lower tail of returns is tested as a rate, too: a unit's return is compared with a low quantile of all units started
earlier, both arms together, known before the unit was: a sequential test of quantiles (in the manner of Howard & Ramdas
2022, "Sequential estimation of quantiles", Bernoulli 28) that no drift of the environment can fool. Means may hide what
it finds.
"""

from __future__ import annotations

import numpy as np

from tasks.analysis.sequential.decision import Bools
from tasks.analysis.sequential.wealth import Floats, mixed

ALTERNATIVES: Floats = np.linspace(0.1, 0.95, 9)
"""How far q lies on the way from p to 1, each with the same weight."""

_WEIGHTS: Floats = np.full(len(ALTERNATIVES), 1.0 / len(ALTERNATIVES))


class Rate:
    """Evidence that the challenger's rate is more than `ratio` times control's, fed in blocks of any size."""

    def __init__(self, ratio: float = 1.0) -> None:
        share = ratio / (1.0 + ratio)
        chance = share + (1.0 - share) * ALTERNATIVES
        self._won, self._lost = np.log(chance / share), np.log((1.0 - chance) / (1.0 - share))
        self._logs = np.zeros(len(ALTERNATIVES))
        self._best = 0.0

    def feed(self, challenger: Bools, happened: Bools) -> Floats:
        """The best log-evidence so far after each of the next units [n]: `happened` [n] says which it befell.

        It passes log(1/α) ever with probability at most α while the rate is no more than `ratio` times control's.
        """
        if not len(challenger):
            return np.zeros(0)
        logs = np.where(challenger, self._won[:, None], self._lost[:, None]) * happened
        logs[:, 0] += self._logs
        np.cumsum(logs, axis=-1, out=logs)
        self._logs = logs[:, -1]
        best: Floats = np.maximum(np.maximum.accumulate(mixed(logs, _WEIGHTS)), self._best)
        self._best = float(best[-1])
        return best


SHARE = 0.1
FIRST_UNITS = 50
"""Units before the first quantile; it is taken anew whenever their number has doubled."""


def bad(returns: Floats) -> Bools:
    """Whether each unit [n] in order of start lies at or below the lower tenth of those before it; never the first.

    Where more than half of those lie there (most episodes end alike), below it.
    """
    found = np.zeros(len(returns), dtype=bool)
    known = FIRST_UNITS
    while known < len(returns):
        earlier, later = returns[:known], returns[known : 2 * known]
        threshold = np.quantile(earlier, SHARE, method="inverted_cdf")
        crowded = float((earlier <= threshold).mean()) > 0.5
        found[known : 2 * known] = later < threshold if crowded else later <= threshold
        known *= 2
    return found
