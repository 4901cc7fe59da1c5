"""What a unit's return is expected to be before it is seen."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.analysis.sequential.centre import WINDOW, Centre


def test_it_is_the_mean_of_the_latest_units_and_of_the_prior() -> None:
    returns = np.random.default_rng(0).random(300)
    found = Centre(prior=0.5).feed(returns)
    for place in (0, 1, 50, WINDOW, WINDOW + 1, 299):
        earlier = returns[max(place - WINDOW, 0) : place]
        assert found[place] == pytest.approx((0.5 + earlier.sum()) / (1 + len(earlier)))


def test_it_follows_an_environment_that_changed() -> None:
    returns = np.concatenate([np.zeros(1000), np.ones(WINDOW + 1)])
    assert Centre().feed(returns)[-1] == 1.0


def test_without_a_prior_it_is_the_mean_alone() -> None:
    np.testing.assert_allclose(Centre().feed(np.array([-300.0, -100.0, 5.0])), [0.0, -300.0, -200.0])


@pytest.mark.parametrize("place", [0, 1, 60, 149])
def test_it_never_looks_at_the_unit_itself_or_later_ones(place: int) -> None:
    generator = np.random.default_rng(1)
    returns, covariate = generator.random(150), generator.random(150)
    changed, foreseen = returns.copy(), covariate.copy()
    changed[place:] = 9.0
    foreseen[place + 1 :] = 9.0
    before = Centre(0.5).feed(returns, covariate)
    after = Centre(0.5).feed(changed, foreseen)
    np.testing.assert_array_equal(before[: place + 1], after[: place + 1])


def test_a_covariate_that_says_all_is_learned() -> None:
    generator = np.random.default_rng(2)
    covariate = generator.normal(50, 3, 3000)
    returns = 7.0 + 2.0 * covariate
    missed = returns - Centre().feed(returns, covariate)
    assert np.abs(missed[1000:]).max() < 0.05 * returns.std()


def test_units_whose_covariate_was_not_kept_are_predicted_without_one() -> None:
    generator = np.random.default_rng(3)
    returns, covariate = generator.random(400), generator.random(400)
    none = Centre(0.5).feed(returns)
    np.testing.assert_array_equal(Centre(0.5).feed(returns, np.full(400, np.nan)), none)
    some = np.where(np.arange(400) % 2 == 0, covariate, np.nan)
    found = Centre(0.5).feed(returns, some)
    np.testing.assert_array_equal(found[1::2], none[1::2])
    assert (found[10::2] != none[10::2]).all()


def test_a_covariate_beyond_all_measure_does_no_harm() -> None:
    returns, covariate = np.random.default_rng(5).random(50), np.random.default_rng(6).random(50)
    covariate[20] = 1e300
    found = Centre(0.5, (0.0, 1.0)).feed(returns, covariate)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[30:], Centre(0.5).feed(returns)[30:])


def test_predictions_stay_within_the_limits() -> None:
    covariate = np.append(np.linspace(0, 1, 200), 50.0)
    returns = np.append(np.linspace(0, 1, 200), 1.0)
    assert Centre(0.5).feed(returns, covariate)[-1] > 1.0
    assert Centre(0.5, (0.0, 1.0)).feed(returns, covariate)[-1] == 1.0


@settings(deadline=None, max_examples=40)
@given(cuts=st.lists(st.integers(0, 400), max_size=10), covaried=st.booleans(), rows=st.sampled_from([None, 2]))
def test_batching_changes_not_one_digit(cuts: list[int], covaried: bool, rows: int | None) -> None:
    generator = np.random.default_rng(4)
    shape = (400,) if rows is None else (rows, 400)
    returns, covariate = generator.random(shape), generator.random(shape) if covaried else None
    centre = Centre(0.5)
    parts = [
        centre.feed(returns[..., begin:end], None if covariate is None else covariate[..., begin:end])
        for begin, end in itertools.pairwise([0, *sorted(cuts), 400])
    ]
    np.testing.assert_array_equal(np.concatenate(parts, axis=-1), Centre(0.5).feed(returns, covariate))
