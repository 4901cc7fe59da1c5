"""Returns without bounds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.analysis.sequential.asymptotic import (
    BURN_IN,
    CENTRE_UNITS,
    PROMOTION_UNITS,
    TUNED_UNITS,
    Comparison,
    Sample,
    Sequence,
    boundary,
    decide,
    decide_threshold,
)


def coin(units: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(units) < 0.5


def test_the_boundary_is_the_published_one() -> None:
    # Waudby-Smith et al. 2024, Proposition B.1, with rho from their section 2.3 and 2 alpha
    alpha, n = 0.05, 250
    rho = math.sqrt((-2 * math.log(2 * alpha) + math.log(-2 * math.log(2 * alpha) + 1)) / TUNED_UNITS)
    square = n * rho**2
    expected = math.sqrt(2 * (square + 1) / (n**2 * rho**2) * math.log(1 + math.sqrt(square + 1) / (2 * alpha)))
    assert boundary(np.array([float(n)]), alpha)[0] == pytest.approx(expected)


def test_nothing_is_said_before_the_burn_in() -> None:
    units = CENTRE_UNITS + BURN_IN - 1
    challenger = coin(units)
    found = decide(challenger, np.where(challenger, -1e6, 0.0), margin=1.0, alpha=0.05, objective="non_inferiority")
    assert (found.verdict, found.bounds.lower, found.bounds.upper) == (None, None, None)
    assert found.bounds.estimate == -1e6


def test_a_much_worse_challenger_is_rolled_back_right_after_it() -> None:
    challenger = coin(400, seed=1)
    returns = np.random.default_rng(2).normal(-200, 20, 400) - 60 * challenger
    found = decide(challenger, returns, margin=2.0, alpha=0.05, objective="non_inferiority")
    assert found.verdict == "roll_back"
    assert found.units <= CENTRE_UNITS + BURN_IN + 20
    assert found.bounds.upper is not None
    assert found.bounds.upper < 0
    assert "asymptotic" in found.bounds.method


def test_a_promotion_waits_for_more_units_than_a_rollback() -> None:
    challenger = coin(400, seed=1)
    returns = np.random.default_rng(2).normal(-200, 20, 400) + 60 * challenger
    rules = {"margin": 2.0, "alpha": 0.05, "objective": "superiority"}
    found = decide(challenger, returns, **rules)  # type: ignore[arg-type]
    assert (found.verdict, found.units) == ("promote", CENTRE_UNITS + PROMOTION_UNITS)
    early = decide(challenger[:100], returns[:100], **rules)  # type: ignore[arg-type]
    assert (early.verdict, early.bounds.lower) == (None, 0.0)
    assert decide_threshold(returns[:149], threshold=-250, margin=2, alpha=0.05).verdict is None
    assert decide_threshold(returns, threshold=-250, margin=2, alpha=0.05).units == PROMOTION_UNITS


def test_a_better_challenger_shows_superiority() -> None:
    challenger = coin(2000, seed=3)
    returns = np.random.default_rng(4).normal(-200, 20, 2000) + 10 * challenger
    assert decide(challenger, returns, margin=2.0, alpha=0.05, objective="superiority").verdict == "promote"


def test_a_run_of_equal_values_is_not_taken_for_certainty() -> None:
    challenger = coin(2000, seed=5)
    found = decide(challenger, np.full(2000, 3.0), margin=0.1, alpha=0.05, objective="non_inferiority")
    assert found.verdict == "promote"
    assert found.units > CENTRE_UNITS + BURN_IN


def test_the_size_of_returns_changes_nothing() -> None:
    challenger = coin(1500, seed=6)
    returns = np.random.default_rng(7).standard_t(3, 1500) - 0.2 * challenger
    one = decide(challenger, returns, margin=0.1, alpha=0.05, objective="non_inferiority")
    other = decide(challenger, 1e3 * returns - 1e6, margin=100, alpha=0.05, objective="non_inferiority")
    assert (one.verdict, one.units) == (other.verdict, other.units)


def test_nothing_is_decided_while_an_arm_is_empty() -> None:
    returns = np.random.default_rng(8).normal(0, 1, 500)
    found = decide(np.ones(500, dtype=bool), returns, margin=1e9, alpha=0.05, objective="non_inferiority")
    assert found.verdict is None


@pytest.mark.parametrize(("mean", "verdict"), [(-150.0, "promote"), (-400.0, "roll_back"), (-250.0, None)])
def test_a_first_release_is_held_against_its_minimum(mean: float, verdict: str | None) -> None:
    returns = np.random.default_rng(9).normal(mean, 30, 200)
    assert decide_threshold(returns, threshold=-250, margin=10, alpha=0.05).verdict == verdict


def test_bounds_are_mean_and_deviation_and_boundary() -> None:
    values = np.random.default_rng(10).standard_t(3, 300) - 1e6
    lower, upper = Sequence(0.05, 0.0).feed(values)
    half = values.std() * boundary(np.array([300.0]), 0.05)[0]
    assert lower[-1] == pytest.approx(values.mean() - half)
    assert upper[-1] == pytest.approx(values.mean() + half)
    assert np.isinf(lower[: BURN_IN - 1]).all()
    assert np.isfinite(lower[BURN_IN - 1 :]).all()


@settings(deadline=None, max_examples=40)
@given(cuts=st.lists(st.integers(0, 900), max_size=12), seed=st.integers(0, 50), covaried=st.booleans())
def test_the_verdict_falls_at_the_same_unit_whatever_the_batching(cuts: list[int], seed: int, covaried: bool) -> None:
    challenger, generator = coin(900, seed), np.random.default_rng(seed + 100)
    returns = generator.standard_t(3, 900) - 0.3 * challenger
    covariate = generator.normal(size=900) if covaried else None
    kind = {"margin": 0.2, "alpha": 0.05, "objective": "non_inferiority"}
    fed, sample = Comparison(**kind), Sample(threshold=-0.5, margin=0.2, alpha=0.05)  # type: ignore[arg-type]
    for begin, end in itertools.pairwise([0, *sorted(cuts), 900]):
        part = slice(begin, end)
        fed.feed(challenger[part], returns[part], None if covariate is None else covariate[part])
        sample.feed(returns[part])
    assert fed.decision() == decide(challenger, returns, covariate=covariate, **kind)  # type: ignore[arg-type]
    whole = decide_threshold(returns, threshold=-0.5, margin=0.2, alpha=0.05)
    assert (sample.verdict, sample.units) == (whole.verdict, whole.units)
    assert sample.decision().bounds.lower == whole.bounds.lower


def test_a_covariate_that_explains_returns_saves_units() -> None:
    def units(used: bool) -> float:
        needed = []
        for seed in range(40):
            challenger, generator = coin(4000, seed), np.random.default_rng(seed)
            covariate = generator.normal(size=4000)
            returns = covariate + 0.75 * generator.standard_t(5, 4000) - 0.4 * challenger
            given = covariate if used else None
            found = decide(challenger, returns, margin=0.1, alpha=0.05, objective="non_inferiority", covariate=given)
            needed.append(found.units)
        return float(np.median(needed))

    assert units(used=True) < 0.7 * units(used=False)
