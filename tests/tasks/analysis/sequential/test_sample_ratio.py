"""The split of units at assignment."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.analysis.sequential.sample_ratio import PRIOR, broken, log_evidence


def test_the_evidence_is_the_beta_binomial_likelihood_ratio() -> None:
    challenger = np.random.default_rng(0).random(300) < 0.45
    ones, n = int(challenger.sum()), 300

    def log_beta(a: float, b: float) -> float:
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    expected = log_beta(PRIOR + ones, PRIOR + n - ones) - log_beta(PRIOR, PRIOR) + n * math.log(2)
    assert log_evidence(challenger)[-1] == pytest.approx(expected)


def test_fair_splits_rarely_alarm_however_often_one_looks() -> None:
    generator = np.random.default_rng(1)
    alarms = sum(broken(generator.random(2000) < 0.5) for _ in range(400))
    assert alarms / 400 <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / 400)


def test_a_split_of_40_to_60_is_found() -> None:
    generator = np.random.default_rng(2)
    assert all(broken(generator.random(3000) < 0.4) for _ in range(20))


def test_an_alarm_is_not_forgotten() -> None:
    assert broken(np.concatenate([np.ones(60, dtype=bool), np.arange(2000) % 2 == 0]))


def test_no_units_are_no_evidence() -> None:
    assert not broken(np.zeros(0, dtype=bool))
