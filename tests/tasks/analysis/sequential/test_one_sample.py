"""A first release against its minimum."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.analysis.sequential.one_sample import Sample, confidence, decide

BOUNDS = (0.0, 500.0)


def test_a_policy_well_above_the_minimum_is_promoted() -> None:
    found = decide(np.full(200, 495.0), bounds=BOUNDS, threshold=400, alpha=0.05)
    assert found.verdict == "promote"
    assert found.units < 40
    assert found.bounds.lower is not None
    assert found.bounds.lower >= 400


def test_a_policy_below_the_minimum_is_rolled_back() -> None:
    returns = np.random.default_rng(0).normal(150, 40, 200).clip(*BOUNDS)
    found = decide(returns, bounds=BOUNDS, threshold=400, alpha=0.05)
    assert found.verdict == "roll_back"
    assert found.bounds.upper is not None
    assert found.bounds.upper <= 400


def test_a_policy_at_the_minimum_is_not_decided() -> None:
    returns = np.random.default_rng(1).normal(400, 20, 300).clip(*BOUNDS)
    found = decide(returns, bounds=BOUNDS, threshold=400, alpha=0.05)
    assert (found.verdict, found.units) == (None, 300)


@pytest.mark.parametrize("threshold", [0.0, -10.0])
def test_a_minimum_at_the_low_end_is_passed_by_any_return_above_it(threshold: float) -> None:
    assert decide(np.full(50, 5.0), bounds=BOUNDS, threshold=threshold, alpha=0.05).verdict == "promote"


def test_a_minimum_above_the_range_cannot_be_met() -> None:
    assert decide(np.full(50, 500.0), bounds=BOUNDS, threshold=501, alpha=0.05).verdict == "roll_back"


def test_without_units_the_bounds_are_the_range() -> None:
    found = decide(np.zeros(0), bounds=BOUNDS, threshold=400, alpha=0.05)
    assert (found.verdict, found.bounds.lower, found.bounds.upper) == (None, 0.0, 500.0)


def test_bounds_hold_the_mean_at_every_look_together() -> None:
    generator = np.random.default_rng(7)
    missed = 0
    for _ in range(200):
        lower, upper = confidence(generator.beta(4, 2, 300), 0.05, 0.5)
        missed += not lower <= 4 / 6 <= upper
    assert missed / 200 <= 0.10 + 3 * np.sqrt(0.1 * 0.9 / 200)


@settings(deadline=None, max_examples=40)
@given(
    cuts=st.lists(st.integers(0, 500), max_size=10),
    seed=st.integers(0, 50),
    threshold=st.sampled_from([0.0, 300.0, 330.0, 360.0, 500.0]),
)
def test_the_verdict_falls_at_the_same_unit_whatever_the_batching(cuts: list[int], seed: int, threshold: float) -> None:
    returns = 500 * np.random.default_rng(seed).beta(4, 2, 500)
    fed = Sample(bounds=BOUNDS, threshold=threshold, alpha=0.05)
    for begin, end in itertools.pairwise([0, *sorted(cuts), 500]):
        fed.feed(returns[begin:end])
    assert fed.decision() == decide(returns, bounds=BOUNDS, threshold=threshold, alpha=0.05)


@pytest.mark.parametrize("seed", range(10))
def test_bounds_and_verdict_never_disagree(seed: int) -> None:
    found = decide(500 * np.random.default_rng(seed).beta(4, 2, 400), bounds=BOUNDS, threshold=325, alpha=0.05)
    assert found.bounds.lower is not None
    assert found.bounds.upper is not None
    assert (found.verdict == "promote") == (found.bounds.lower >= 325)
    assert (found.verdict == "roll_back") == (found.bounds.upper <= 325)
