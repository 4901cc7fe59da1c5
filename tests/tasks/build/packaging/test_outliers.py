"""What is usual for a policy's observations, and what the gateway then takes for an outlier."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bentos.telemetry.outliers import Outliers
from tasks.build.packaging.baselines import LEAST_ROWS, mahalanobis

Array = np.ndarray[Any, Any]


def fitted(values: Array, effective: float | None = None, episodes: Array | None = None) -> Outliers:
    document = mahalanobis(values, float(len(values)) if effective is None else effective, episodes)
    found = Outliers.read(document, values.mean(axis=0))
    assert found is not None
    return found


def test_distances_are_those_of_the_covariance() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(50_000, 3)) @ np.array([[2.0, 1.0, 0.0], [0.0, 1.0, -0.5], [0.0, 0.0, 0.8]]) + 7
    rows = random.normal(size=(5, 3)) * 4 + 7
    away = rows - values.mean(axis=0)
    exact = np.sqrt((away @ np.linalg.inv(np.cov(values.T)) * away).sum(axis=1))
    assert fitted(values).distances(rows) == pytest.approx(exact, rel=0.02)


def test_one_in_a_thousand_of_what_is_usual_is_flagged_whatever_its_shape() -> None:
    random = np.random.default_rng(1)
    for draw in (random.standard_normal, random.standard_exponential):
        outliers = fitted(draw((20_000, 4)))
        assert 0.0003 <= outliers.flagged(draw((100_000, 4))).mean() <= 0.003


def test_what_was_never_seen_together_is_an_outlier_although_each_entry_is_usual() -> None:
    random = np.random.default_rng(2)
    one = random.normal(size=(5000, 1))
    values = np.hstack([one, one + random.normal(0, 0.1, (5000, 1))])
    outliers = fitted(values)
    assert outliers.flagged(np.array([[1.0, 1.0], [1.0, -1.0]])).tolist() == [False, True]


def test_an_entry_that_never_varied_flags_any_change() -> None:
    values = np.hstack([np.random.default_rng(3).normal(size=(1000, 1)), np.full((1000, 1), 5.0)])
    assert fitted(values).flagged(np.array([[0.0, 5.0], [0.0, 6.0]])).tolist() == [False, True]


def test_few_independent_rows_of_many_entries_do_not_make_the_next_episode_an_outlier() -> None:
    random = np.random.default_rng(4)

    def played(episodes: int) -> Array:
        return np.repeat(random.normal(size=(episodes, 30)), 50, axis=0) + random.normal(0, 0.1, (episodes * 50, 30))

    outliers = fitted(played(40), effective=40.0, episodes=np.repeat(np.arange(40), 50))
    assert outliers.flagged(played(200)).mean() < 0.05


def test_too_few_rows_say_nothing_and_nothing_is_flagged() -> None:
    assert mahalanobis(np.zeros((LEAST_ROWS - 1, 2)), 10.0) is None
    assert Outliers.read(None, np.zeros(2)) is None


def test_what_is_not_finite_is_an_outlier() -> None:
    assert fitted(np.random.default_rng(5).normal(size=(500, 2))).flagged(np.array([[np.nan, 0.0]])).all()


def test_a_factor_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 3 finite numbers"):
        Outliers.read({"factor": [1.0], "threshold": 3.0}, np.zeros(2))
