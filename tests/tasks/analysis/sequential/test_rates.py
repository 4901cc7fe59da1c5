"""How often something befalls a unit."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.analysis.sequential.rates import ALTERNATIVES, Rate

ALPHA = 0.01


def units(control: float, challenger: float, seed: int, count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    arm = generator.random(count) < 0.5
    return arm, generator.random(count) < np.where(arm, challenger, control)


def evidence(arm: np.ndarray, happened: np.ndarray, ratio: float = 1.0) -> float:
    return float(np.exp(Rate(ratio).feed(arm, happened)[-1]))


def test_the_evidence_is_the_mean_of_likelihood_ratios_at_its_best_look() -> None:
    arm, happened = units(0.1, 0.3, 0, 200)
    ours, theirs = np.cumsum(arm & happened), np.cumsum(~arm & happened)
    chance = 0.5 + 0.5 * ALTERNATIVES[:, None]
    ratios = ((2 * chance) ** ours * (2 * (1 - chance)) ** theirs).mean(axis=0)
    np.testing.assert_allclose(Rate().feed(arm, happened), np.log(np.maximum.accumulate(ratios)).clip(0), atol=1e-9)


def test_units_it_did_not_befall_say_nothing() -> None:
    arm, happened = units(0.1, 0.3, 0, 200)
    assert evidence(arm[happened], np.ones(int(happened.sum()), dtype=bool)) == pytest.approx(evidence(arm, happened))
    assert evidence(np.ones(500, dtype=bool), np.zeros(500, dtype=bool)) == pytest.approx(1.0)
    assert len(Rate().feed(np.zeros(0, dtype=bool), np.zeros(0, dtype=bool))) == 0


@pytest.mark.parametrize("rate", [0.001, 0.02, 0.1])
def test_equal_rates_rarely_alarm_whatever_they_are(rate: float) -> None:
    alarms = sum(evidence(*units(rate, rate, seed)) >= 1 / ALPHA for seed in range(400))
    assert alarms / 400 <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / 400)


def test_a_fault_in_fifty_units_against_one_in_a_thousand_is_found_soon() -> None:
    needed = []
    for seed in range(200):
        hit = Rate().feed(*units(0.001, 0.02, seed)) >= math.log(1 / ALPHA)
        needed.append((int(hit.argmax()) + 1) / 2 if hit.any() else math.inf)
    # units an arm; a test that knew both rates would need 431
    assert np.median(needed) <= 550


def test_a_ratio_that_is_allowed_for_does_not_alarm_and_twice_it_does() -> None:
    allowed = sum(evidence(*units(0.1, 0.15, seed), 1.5) >= 1 / ALPHA for seed in range(200))
    assert allowed / 200 <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / 200)
    assert sum(evidence(*units(0.1, 0.3, seed), 1.5) >= 1 / ALPHA for seed in range(20)) >= 19


def test_a_better_challenger_never_alarms() -> None:
    assert evidence(*units(0.1, 0.02, 5)) < 1 / ALPHA


def test_an_alarm_is_not_forgotten() -> None:
    arm = np.append(np.ones(30, dtype=bool), np.zeros(500, dtype=bool))
    assert evidence(arm, np.ones(530, dtype=bool)) >= 1 / ALPHA


@settings(deadline=None, max_examples=25)
@given(cuts=st.lists(st.integers(0, 500), max_size=8))
def test_batching_changes_not_one_digit(cuts: list[int]) -> None:
    arm, happened = units(0.05, 0.1, 7, 500)
    rate = Rate()
    parts = [rate.feed(arm[a:b], happened[a:b]) for a, b in itertools.pairwise([0, *sorted(cuts), 500])]
    np.testing.assert_array_equal(np.concatenate(parts), Rate().feed(arm, happened))
