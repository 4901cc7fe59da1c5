"""Wealth and its inversion, against the plain definition."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.analysis.betting import FRACTIONS, last_rejected, log_wealth


@pytest.mark.parametrize("units", [1, 127, 128, 129, 1000])
def test_wealth_is_the_mean_over_fractions_of_the_products(units: int) -> None:
    payoffs = np.random.default_rng(units).uniform(-1, 1, units)
    plain = np.log(np.mean([np.cumprod(1 + fraction * payoffs) for fraction in FRACTIONS], axis=0))
    np.testing.assert_allclose(log_wealth(payoffs), plain, rtol=1e-9, atol=1e-12)


def test_wealth_survives_what_underflows_a_product() -> None:
    lost = log_wealth(np.full(100_000, -1.0))
    assert np.isfinite(lost).all()
    assert lost[-1] == pytest.approx(100_000 * np.log(1 - FRACTIONS[0]) - np.log(len(FRACTIONS)))


def test_many_canaries_at_once_are_the_same_as_one_by_one() -> None:
    payoffs = np.random.default_rng(0).uniform(-1, 1, (3, 300))
    np.testing.assert_allclose(log_wealth(payoffs), [log_wealth(row) for row in payoffs])


def test_without_units_nothing_was_won() -> None:
    assert log_wealth(np.zeros(0)).shape == (0,)


@pytest.mark.parametrize("root", [-0.9, -0.25, 0.0, 0.3, 0.999])
def test_the_last_rejected_hypothesis_is_found_from_its_safe_side(root: float) -> None:
    found = last_rejected(lambda h: (root - h) ** 3 + 5 * (root - h), -1.0, 1.0, hint=0.1)
    assert found <= root
    assert found == pytest.approx(root, abs=1e-5)


def test_when_nothing_is_rejected_the_bound_is_trivial() -> None:
    assert last_rejected(lambda _: -1.0, -1.0, 1.0, 0.0) == -1.0
    assert last_rejected(lambda _: 1.0, -1.0, 1.0, 0.0) == 1.0


def test_the_bound_lies_on_the_side_of_the_hint_that_its_test_says() -> None:
    for hint in (-0.03, 0.0, 0.2):
        assert last_rejected(lambda h, edge=hint: edge - h, -1.0, 1.0, hint) >= hint
        assert last_rejected(lambda h, edge=hint: edge - h - 1e-12, -1.0, 1.0, hint) < hint
