"""Reward decay: whether the champion has lost more of its return than is tolerated, asked again after every return.

The null hypothesis, "the mean return is still above the threshold", is bet against by a Shiryaev-Roberts e-detector
(Shin, Ramdas & Rinaldo 2023, "E-detectors: a nonparametric framework for sequential change detection",
arXiv:2203.03532): M = (M' + 1)·L with L = 1 + λ·(threshold - Y)/(ceiling - threshold), the one-sided bet of
Waudby-Smith & Ramdas 2024 (section 4), mixed over λ. It asks nothing of the returns but a ceiling, and looking often
costs nothing: false alarms come, on average, no sooner than after `run_length` returns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RUN_LENGTH = 100_000
"""Returns until a false alarm, on average, at least."""

FRACTIONS: Floats = np.geomspace(0.02, 0.95, 8)
STANDARD_ERRORS = 2.0
"""A loss within so many standard errors of the baseline's own mean is none."""

CEILING_DEVIATIONS = 4.0


@dataclass(frozen=True)
class Baseline:
    """The returns a champion was measured to have: mean, standard deviation (n-1) and number of episodes."""

    mean: float
    std: float
    count: int

    @staticmethod
    def of(returns: Sequence[float] | Floats) -> Baseline:
        """The baseline that `returns` make. Raises ValueError for fewer than two."""
        values = np.asarray(returns, dtype=np.float64)
        if len(values) < 2:
            raise ValueError(f"a baseline needs at least 2 returns, came {len(values)}")
        return Baseline(float(values.mean()), float(values.std(ddof=1)), len(values))

    def threshold(self, max_return_drop: float) -> float:
        """The mean return below which too much is lost: a share of |mean|, or what the baseline cannot tell if more."""
        unknown = STANDARD_ERRORS * self.std / math.sqrt(max(self.count, 1))
        return self.mean - max(max_return_drop * abs(self.mean), unknown)


@dataclass(frozen=True)
class Decay:
    """What was found. Returns and `threshold` are in return units.

    `at` is the number of returns at the alarm (null: none); `evidence` is in units of the alarm, now; `mean` is that of
    the last `window` returns and `drop` the share of the baseline it lost (negative: gained), null without returns.
    """

    decayed: bool
    at: int | None
    evidence: float
    returns: int
    window: int
    mean: float | None
    drop: float | None
    threshold: float
    reason: str


def decay(
    returns: Sequence[float] | Floats,
    baseline: Baseline,
    *,
    max_return_drop: float,
    bounds: tuple[float, float] | None = None,
    window: int = 100,
    run_length: float = RUN_LENGTH,
) -> Decay:
    """Whether `returns` [n] have shown, at any look so far, that the mean fell below the baseline's threshold.

    `max_return_drop` and `window` (returns, for the figures that people read) are the spec's `monitor.max_return_drop`
    and `monitor.baseline_window`; `bounds` those of a return, where it has any. Without bounds, returns above the
    baseline's mean by four deviations count as that much: the clipped mean is what is judged.

    Returns should be in order of start. In order of completion, give only those recorded once the longest episode
    could have ended since the first began: before that, the short episodes are all there is.
    """
    values = np.asarray(returns, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"return {int(np.argmin(np.isfinite(values))) + 1} of {len(values)} is not finite")
    threshold = baseline.threshold(max_return_drop)
    ceiling = bounds[1] if bounds else baseline.mean + CEILING_DEVIATIONS * baseline.std
    log_evidence = _log_wealth(values, threshold, ceiling) - math.log(run_length)
    alarms = np.flatnonzero(log_evidence >= 0.0)
    at = int(alarms[0]) + 1 if len(alarms) else None
    recent = values[-window:]
    mean = float(recent.mean()) if len(recent) else None
    drop = None if mean is None else (baseline.mean - mean) / max(abs(baseline.mean), 1e-9)
    return Decay(
        decayed=at is not None,
        at=at,
        evidence=math.exp(min(float(log_evidence[-1]), 700.0)) if len(values) else 0.0,
        returns=len(values),
        window=len(recent),
        mean=mean,
        drop=drop,
        threshold=threshold,
        reason=_reason(at, len(values), mean, len(recent), baseline, threshold),
    )


def _log_wealth(values: Floats, threshold: float, ceiling: float) -> Floats:
    """Logarithm of the detector [n] after each return: Σ over starts s of Π L from s on, mixed over `FRACTIONS`."""
    span = max(ceiling - threshold, 1e-9 * max(1.0, abs(threshold)))
    payoff = np.maximum((threshold - np.minimum(values, ceiling)) / span, -1.0)
    growth = np.cumsum(np.log1p(payoff[:, None] * FRACTIONS), axis=0)
    before = np.vstack([np.zeros((1, len(FRACTIONS))), growth])[: len(values)]
    wealth = growth + np.logaddexp.accumulate(-before, axis=0)
    mixed: Floats = np.logaddexp.reduce(wealth, axis=1) - math.log(len(FRACTIONS))
    return mixed


def _reason(at: int | None, count: int, mean: float | None, recent: int, baseline: Baseline, threshold: float) -> str:
    measured = f"it was measured at {baseline.mean:.4g} over {baseline.count} episodes"
    if mean is None:
        return f"no returns yet; {measured}"
    now = f"mean return {mean:.4g} over the last {recent} of {count}; {measured}, and {threshold:.4g} is the least"
    return f"{now}: {'below it for sure since return ' + str(at) if at else 'not shown to be below it'}"
