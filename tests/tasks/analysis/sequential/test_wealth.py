"""Wealth and its inversion, against the plain definition."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.analysis.sequential.wealth import MOST, best_log_wealth, cut, last_rejected, log_products, log_wealth

STAKES = np.geomspace(0.01, 3.0, 8)
WEIGHTS = np.arange(1.0, 9.0) / 36


def staked(units: int) -> np.ndarray:
    return np.broadcast_to(STAKES[:, None], (8, units))


def plain(payoffs: np.ndarray, worst: float) -> np.ndarray:
    """The mixture of products, as published."""
    products = [np.cumprod(1 + min(stake, MOST / worst) * payoffs) for stake in STAKES]
    return np.log(np.average(products, axis=0, weights=WEIGHTS))


@pytest.mark.parametrize("units", [1, 63, 64, 65, 1000])
def test_wealth_is_the_mean_over_stakes_of_the_products(units: int) -> None:
    payoffs = np.random.default_rng(units).uniform(-0.8, 1, units)
    found = log_wealth(payoffs, staked(units), np.full(units, cut(0.8)), WEIGHTS)
    np.testing.assert_allclose(found, plain(payoffs, 0.8), rtol=1e-9, atol=1e-12)


def test_wealth_survives_what_underflows_a_product() -> None:
    units = 100_000
    lost = log_wealth(np.full(units, -1.0), staked(units), np.full(units, cut(1.0)), WEIGHTS)
    assert np.isfinite(lost).all()
    assert lost[-1] == pytest.approx(units * np.log(1 - STAKES[0]) + np.log(WEIGHTS[0]))


def test_no_unit_can_cost_all_of_it() -> None:
    lost = log_products(np.full(1, -0.5), np.full((1, 1), 1e9), np.full(1, cut(0.5)))
    assert lost[0, 0] == pytest.approx(np.log(1 - MOST))


def test_many_canaries_at_once_are_the_same_as_one_by_one() -> None:
    payoffs = np.random.default_rng(0).uniform(-1, 1, (3, 300))
    limit = np.full(300, cut(1.0))
    together = log_wealth(payoffs, staked(300), np.broadcast_to(limit, (3, 300)), WEIGHTS)
    np.testing.assert_array_equal(together, [log_wealth(row, staked(300), limit, WEIGHTS) for row in payoffs])


def test_without_units_nothing_was_won() -> None:
    assert log_wealth(np.zeros(0), np.zeros((8, 0)), np.zeros(0), WEIGHTS).shape == (0,)


@pytest.mark.parametrize("units", [1, 64, 100, 5000])
def test_the_best_wealth_is_found_without_looking_everywhere(units: int) -> None:
    payoffs = np.random.default_rng(units).uniform(-0.9, 1, units)
    limit = np.full(units, cut(0.9))
    every = log_wealth(payoffs, staked(units), limit, WEIGHTS)
    looked = np.append(every[63::64], every[-1])
    assert best_log_wealth(payoffs, staked(units), limit, WEIGHTS) == pytest.approx(looked.max(), abs=1e-9)


@pytest.mark.parametrize("root", [-0.9, -0.25, 0.0, 0.3, 0.999])
@pytest.mark.parametrize("guess", [-1.0, 0.1, 5.0])
def test_the_last_rejected_hypothesis_is_found_from_its_safe_side(root: float, guess: float) -> None:
    found = last_rejected(lambda h: (root - h) ** 3 + 5 * (root - h), -1.0, 1.0, guess, step=0.01)
    assert found <= root
    assert found == pytest.approx(root, abs=1e-4)


def test_when_nothing_is_rejected_the_bound_is_trivial() -> None:
    assert last_rejected(lambda _: -1.0, -1.0, 1.0, 0.0, 0.1) == -1.0
    assert last_rejected(lambda _: 1.0, -1.0, 1.0, 0.0, 0.1) == 1.0
