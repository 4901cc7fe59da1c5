"""Which units fared badly: at or below a low quantile of all units started earlier, both arms together.

A unit's return is compared with a quantile known before the unit was, so that how often that happens can be held
against control's by `rates`: a sequential test of quantiles (in the manner of Howard & Ramdas 2022, "Sequential
estimation of quantiles", Bernoulli 28) that no drift of the environment can fool. Means may hide what it finds.
"""

from __future__ import annotations

import numpy as np

from tasks.analysis.sequential.decision import Bools
from tasks.analysis.sequential.wealth import Floats

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
