"""Off-policy evaluation by importance: what another policy would have earned in the episodes that a policy played.

Intervals are percentile bootstraps over episodes (Efron 1979), since episodes are what is independent; both estimators
are ratios, so no bound of finite samples is claimed. Where few episodes carry the weight no interval can be trusted:
`effective` says how many do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 2_000


@dataclass(frozen=True)
class Played:
    """Episodes, padded to the longest with zeros: `rewards`, and `log_ratios` of each executed action's probability
    under the evaluated policy to that under the one that drew it, both float64 [episodes, steps]."""

    rewards: Floats
    log_ratios: Floats

    @property
    def weights(self) -> Floats:
        """Products of the ratios up to and with each step, [episodes, steps], scaled by the largest of their step.

        After an episode's end its weight stays, as in a state that nothing leaves (Thomas 2015, section 2).
        """
        logs = np.cumsum(self.log_ratios, axis=1)
        return np.asarray(np.exp(logs - logs.max(axis=0)))

    @property
    def effective(self) -> float:
        """Effective number of episodes at the last step, (Σw)² / Σw² (Kong 1992)."""
        last = self.weights[:, -1]
        return float(last.sum() ** 2 / np.square(last).sum())


@dataclass(frozen=True)
class Estimate:
    """A difference of mean undiscounted returns, evaluated minus logged policy, with its interval and its `method`.

    `value` is the evaluated policy's mean return. `reliable` says whether the estimate may vote, and `reason` why not.
    """

    method: str
    value: float
    gain: float
    lower: float
    upper: float
    confidence: float
    interval: str
    reliable: bool
    reason: str


def resampled(episodes: int, seed: int, resamples: int = RESAMPLES) -> Floats:
    """How often each episode is in each bootstrap sample, float64 [resamples, episodes]."""
    return np.random.default_rng(seed).multinomial(episodes, np.full(episodes, 1 / episodes), resamples).astype(float)


def per_decision(played: Played, counts: Floats) -> Floats:
    """Weighted (self-normalised) per-decision importance sampling, one value a row of `counts` [n, episodes].

    Precup, Sutton & Singh 2000, section 4, with the weights of each step normalised by themselves (Thomas 2015,
    "consistent weighted per-decision importance sampling"): Σ_t Σ_i w_it r_it / Σ_i w_it. Consistent; biased to the
    logged policy's return in few episodes.
    """
    weights = played.weights
    return np.asarray((_ratio(counts, weights, played.rewards)).sum(axis=1))


def doubly_robust(played: Played, q: Floats, v: Floats, counts: Floats) -> Floats:
    """The weighted doubly robust estimator, one value a row of `counts` [n, episodes].

    Jiang & Li 2016, eq. 10, with normalised weights (Thomas & Brunskill 2016, eq. 9):
    Σ_t w_t (r_t - q_t) + w_{t-1} v_t.
    `q` [episodes, steps] is a model's value of what was done in each state with the steps that were left, `v` that of
    what the evaluated policy would do; both 0 after the end. It is right where the ratios or the model are. The model
    must come from other episodes.
    """
    weights = played.weights
    before = np.concatenate([np.ones((len(weights), 1)), weights[:, :-1]], axis=1)
    return np.asarray((_ratio(counts, weights, played.rewards - q) + _ratio(counts, before, v)).sum(axis=1))


def _ratio(counts: Floats, weights: Floats, values: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num((counts @ (weights * values)) / (counts @ weights))


def estimate(
    method: str, values: Floats, value: float, logged: Floats, mean: float, alpha: float, doubt: str = ""
) -> Estimate:
    """The estimate from bootstrapped `values` and means of the `logged` returns of the same resamples, both [n].

    `value` and `mean` are those of all episodes; `doubt` is why it cannot vote, empty where it can.
    """
    lower, upper = np.quantile(values - logged, [alpha / 2, 1 - alpha / 2])
    return Estimate(
        method=method,
        value=float(value),
        gain=float(value - mean),
        lower=float(lower),
        upper=float(upper),
        confidence=1 - alpha,
        interval=f"percentile bootstrap over episodes, {len(values):,} resamples",
        reliable=not doubt,
        reason=doubt,
    )
