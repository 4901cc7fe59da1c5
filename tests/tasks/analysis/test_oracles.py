"""The numbers of independent implementations, run once; those libraries are too heavy or too old to test with."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import betaln
from scipy.stats import binom

from tasks.analysis.sequential import rates, sample_ratio
from tasks.analysis.sequential.asymptotic import boundary
from tasks.analysis.sequential.wealth import cut, log_wealth


@pytest.mark.parametrize(
    ("units_an_arm", "low", "high"),
    [
        (50, -0.7043149083673255, 1.3043149083673256),
        (150, -0.2430959655811959, 0.8430959655811958),
        (1000, 0.07888258802695958, 0.5211174119730404),
    ],
)
def test_the_asymptotic_sequence_has_the_width_of_gbstats(units_an_arm: int, low: float, high: float) -> None:
    # gbstats 0.8.0, SequentialTwoSidedTTest, alpha 0.1, tuned to 345 units, arms of deviation 1.7 that differ by 0.3
    units = 2.0 * units_an_arm
    ours = 2 * 1.7 * boundary(np.array([units]), 0.05)[0]
    # theirs is the two-sided boundary: log(s) where the one-sided one has log(1 + s), s as in Proposition B.1
    rho = 0.13544194547872365
    s = math.sqrt(units * rho**2 + 1) / 0.1
    assert ours * math.sqrt(math.log(s) / math.log1p(s)) == pytest.approx((high - low) / 2, rel=1e-9)
    assert 1.0 < math.log1p(s) / math.log(s) < 1.04


def test_the_sample_ratio_evidence_is_that_of_savvi_and_of_scipy() -> None:
    # savvi 0.2.0, Multinomial(0.01, [0.5, 0.5], k=20), fed these units one by one
    challenger = np.random.default_rng(0).random(300) < 0.45
    evidence = np.exp(sample_ratio.log_evidence(challenger))
    for units, ours, expected in (
        (1, 0, 1.0000000000000018),
        (10, 3, 1.0722257918659839),
        (100, 39, 3.1237001933875788),
        (300, 119, 106.22586745851794),
    ):
        assert int(challenger[:units].sum()) == ours
        assert evidence[units - 1] == pytest.approx(expected)
        scipy = betaln(10 + ours, 10 + units - ours) - betaln(10, 10) + units * math.log(2)
        assert math.log(evidence[units - 1]) == pytest.approx(scipy, abs=1e-9)


def test_the_rate_evidence_is_a_mean_of_binomial_likelihood_ratios_by_scipy() -> None:
    arm, ratio = np.random.default_rng(1).random(80) < 0.7, 1.5
    share = ratio / (1 + ratio)
    chances = share + (1 - share) * rates.ALTERNATIVES
    ours = np.cumsum(arm)
    looks = np.arange(1, 81)
    ratios = np.mean([binom.pmf(ours, looks, q) / binom.pmf(ours, looks, share) for q in chances], axis=0)
    assert math.exp(rates.Rate(ratio).feed(arm, np.ones(80, dtype=bool))[-1]) == pytest.approx(ratios.max())


def test_wealth_is_that_of_the_published_example_of_a_hedged_capital() -> None:
    # Waudby-Smith & Ramdas 2024, equation 24: one stake and one mean make the product of 1 + stake (x - m)
    values, mean, stake = np.array([0.9, 0.2, 0.7, 1.0]), 0.4, 0.5
    found = log_wealth(values - mean, np.full((1, 4), stake), np.full(4, cut(mean)), np.ones(1))
    np.testing.assert_allclose(np.exp(found), np.cumprod([1.25, 0.9, 1.15, 1.3]))
