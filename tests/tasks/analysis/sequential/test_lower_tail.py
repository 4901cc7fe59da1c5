"""Units that fared badly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.analysis.judge import guardrails
from tasks.analysis.sequential.rates import FIRST_UNITS, SHARE, bad


def test_about_a_tenth_fares_badly_where_nothing_changes() -> None:
    found = bad(np.random.default_rng(0).normal(size=20_000))
    assert found[FIRST_UNITS:].mean() == pytest.approx(SHARE, abs=0.02)
    assert not found[:FIRST_UNITS].any()


def test_a_unit_is_compared_with_earlier_ones_alone() -> None:
    returns = np.random.default_rng(1).normal(size=1000)
    changed = returns.copy()
    changed[400:] -= 100.0
    np.testing.assert_array_equal(bad(returns)[:400], bad(changed)[:400])
    assert bad(changed)[400:800].all()


def test_equal_returns_are_never_bad() -> None:
    assert not bad(np.full(1000, 500.0)).any()
    assert len(bad(np.zeros(0))) == 0


def test_failures_that_all_return_the_same_are_bad_and_successes_that_do_are_not() -> None:
    failed = np.random.default_rng(3).random(2000) < 0.2
    np.testing.assert_array_equal(bad(np.where(failed, 0.0, 500.0))[FIRST_UNITS:], failed[FIRST_UNITS:])
    seldom = np.random.default_rng(3).random(2000) < 0.03
    np.testing.assert_array_equal(bad(np.where(seldom, 0.0, 500.0))[FIRST_UNITS:], seldom[FIRST_UNITS:])


def test_more_units_change_nothing_about_earlier_ones() -> None:
    returns = np.random.default_rng(2).normal(size=3000)
    for units in (10, 51, 100, 777, 2999):
        np.testing.assert_array_equal(bad(returns[:units]), bad(returns)[:units])


def wilder(seed: int, failures: float) -> tuple[np.ndarray, np.ndarray]:
    """The challenger fails more often and gains as much elsewhere: the same mean."""
    generator = np.random.default_rng(seed)
    challenger = generator.random(4000) < 0.5
    failed = generator.random(4000) < np.where(challenger, failures, 0.1)
    fine = np.where(challenger, 0.72 / (1 - failures), 0.8)
    return challenger, np.where(failed, 0.0, fine) + generator.normal(0, 0.02, 4000)


def test_a_mean_that_hides_failures_is_found_out() -> None:
    assert sum(guardrails.tail(*wilder(seed, 0.3)).fired == "roll_back" for seed in range(20)) >= 19


def test_equal_tails_rarely_end_a_canary_even_where_the_environment_flips() -> None:
    fired = 0
    for seed in range(300):
        challenger, returns = wilder(seed, 0.1)
        returns = returns - 0.5 * (np.arange(4000) // 400 % 2)
        fired += guardrails.tail(challenger, returns).fired is not None
    assert fired / 300 <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / 300)
