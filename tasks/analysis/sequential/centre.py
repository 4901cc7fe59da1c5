"""What a unit's return is expected to be before it is seen: the closer, the less a score scatters.

Any centre that depends only on units started earlier, and on what was known of the unit itself before its arm acted,
leaves the scores of `mean_difference` unbiased. A good one makes them smaller: with a fair coin, the running mean of
both arms together gives the doubly robust score of Waudby-Smith et al. 2024 (section 3) with one mean an arm, and a
covariate fitted to earlier units is CUPED (Deng, Xu, Kohavi & Walker 2013, equation 5) made predictable.
"""

from __future__ import annotations

import numpy as np

from tasks.analysis.sequential.wealth import Floats

WINDOW = 100
"""Earlier units in the running mean: costs 1 % of variance where nothing moves, and follows what does."""

SHRINKAGE = 10.0
"""Units' worth of doubt about the covariate's slope."""


class Centre:
    """Running prediction of returns, fed in order of start, in blocks of any size (the same to the last digit).

    `prior` counts as one more unit in the mean (None: none, and the first prediction is 0). With `limits` predictions
    are cut to them. Leading axes of the arrays are independent canaries.
    """

    def __init__(self, prior: float | None = None, limits: tuple[float, float] | None = None) -> None:
        self._weight = 0.0 if prior is None else 1.0
        self._limits = limits
        self._returns = _WindowMean(0.0 if prior is None else prior, self._weight)
        self._covariates, self._kept = _WindowMean(0.0, 0.0), _WindowMean(0.0, 0.0)
        self._seen = 0
        self._products: Floats | float = 0.0
        self._squares: Floats | float = 0.0

    def feed(self, returns: Floats, covariate: Floats | None = None) -> Floats:
        """Predictions of the next units' returns [..., n], each from units before it and its own covariate.

        `covariate` [..., n] is one number a unit, known before its arm acted, NaN where it is not; pass it with every
        block or with none.
        """
        mean = self._returns.feed(returns)
        predicted = mean
        if covariate is not None:
            kept = np.isfinite(covariate)
            share = self._kept.feed(kept.astype(np.float64))
            total = self._covariates.feed(np.where(kept, covariate, 0.0))
            off = np.where(kept & (share > 0.0), covariate - total / np.where(share > 0.0, share, 1.0), 0.0)
            # a covariate beyond all measure is of no use, and does no harm
            with np.errstate(over="ignore", invalid="ignore"):
                products, self._products = _running(off * (returns - mean), self._products)
                squares, self._squares = _running(off * off, self._squares)
                counts = self._seen + np.arange(returns.shape[-1])
                doubted = squares * (1.0 + SHRINKAGE / np.maximum(counts, 1))
                known = (doubted > 0.0) & np.isfinite(doubted) & np.isfinite(products)
            slope = np.divide(products, doubted, out=np.zeros_like(doubted), where=known)
            predicted = np.where(slope == 0.0, mean, mean + slope * off)
        self._seen += returns.shape[-1]
        return predicted if self._limits is None else predicted.clip(*self._limits)


class _WindowMean:
    """Mean of the latest `WINDOW` earlier values, and of a prior worth `weight` values."""

    def __init__(self, prior: float, weight: float) -> None:
        self._prior, self._weight = prior * weight, weight
        self._sums: Floats | None = None
        self._seen = 0

    def feed(self, values: Floats) -> Floats:
        before = np.zeros((*values.shape[:-1], 1)) if self._sums is None else self._sums
        sums = np.concatenate([before, values], axis=-1)
        held = before.shape[-1]
        np.cumsum(sums[..., held - 1 :], axis=-1, out=sums[..., held - 1 :])
        units = values.shape[-1]
        ends = held - 1 + np.arange(units)
        counts = np.minimum(self._seen + np.arange(units), WINDOW)
        total = sums[..., ends] - sums[..., ends - counts]
        self._seen += units
        self._sums = sums[..., -(WINDOW + 1) :].copy()
        mean: Floats = (self._prior + total) / np.maximum(counts + self._weight, 1.0)
        return mean


def _running(values: Floats, start: Floats | float) -> tuple[Floats, Floats | float]:
    """Sums of the values before each entry [..., n], beginning at `start`, and the sum after the last."""
    if not values.shape[-1]:
        return values, start
    sums = values.copy()
    sums[..., 0] += start
    np.cumsum(sums, axis=-1, out=sums)
    first = np.broadcast_to(np.asarray(start, dtype=np.float64), sums.shape[:-1])[..., None]
    return np.concatenate([first, sums[..., :-1]], axis=-1), sums[..., -1]
