"""Reward decay: no alarm while the champion holds what is asked of it, however often one looks; soon after, one."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats

from tasks.monitoring.decay import Baseline, decay

Returns = Callable[[np.random.Generator, int], np.ndarray]
CARTPOLE = Baseline(480.0, 60.0, 50)
RANGE = (0.0, 500.0)


def two_point(mean: float) -> Returns:
    """Returns of 500 or 100 with the given mean: as noisy as bounded returns get."""
    return lambda generator, n: np.where(generator.random(n) < (mean - 100) / 400, 500.0, 100.0)


def flipping(low: float, high: float) -> Returns:
    def draw(generator: np.random.Generator, n: int) -> np.ndarray:
        bad = (np.arange(n) // 40) % 2 == 0
        return np.where(bad, two_point(low)(generator, n), two_point(high)(generator, n))

    return draw


@pytest.mark.parametrize(
    "world", [two_point(384.0), flipping(384.0, 484.0)], ids=["at the threshold", "at it or better by turns"]
)
def test_false_alarms_come_no_sooner_than_set_on_average(world: Returns) -> None:
    # a champion at the threshold itself: the worst that is not yet a decay
    generator, run_length, horizon = np.random.default_rng(0), 200, 6000
    assert CARTPOLE.threshold(0.2) == 384.0
    runs = []
    for _ in range(200):
        found = decay(world(generator, horizon), CARTPOLE, max_return_drop=0.2, bounds=RANGE, run_length=run_length)
        runs.append(found.at or horizon)
    error = float(np.std(runs)) / math.sqrt(len(runs))
    assert np.mean(runs) >= run_length - 3 * error
    assert min(runs) < horizon, "a test that never fires would pass the line above"


def test_a_champion_that_holds_its_baseline_is_left_alone_where_repeated_tests_are_not() -> None:
    generator = np.random.default_rng(1)
    shape, trials = scipy.stats.expon(scale=100.0), 40
    peeking = thresholds = alarms = 0
    for _ in range(trials):
        measured, live = shape.rvs(50, random_state=generator), shape.rvs(3000, random_state=generator)
        known = Baseline.of(measured)
        looks = range(100, len(live), 20)
        tested = (
            scipy.stats.ttest_ind(live[k - 100 : k], measured, equal_var=False, alternative="less") for k in looks
        )
        peeking += any(found.pvalue < 0.05 for found in tested)
        thresholds += any(live[k - 100 : k].mean() < 0.8 * known.mean for k in looks)
        alarms += decay(live, known, max_return_drop=0.2).decayed
    assert alarms == 0
    assert peeking >= 0.3 * trials
    assert thresholds >= 0.3 * trials


@pytest.mark.parametrize(("lost", "returns"), [(0.9, 20), (0.5, 40), (0.3, 150)])
def test_a_decay_is_found_soon(lost: float, returns: int) -> None:
    generator = np.random.default_rng(2)
    delays = []
    for _ in range(50):
        before = np.minimum(500, generator.normal(480, 40, 400))
        after = np.clip(generator.normal(480 * (1 - lost), 100, 2000), 0, 500)
        found = decay(np.concatenate([before, after]), CARTPOLE, max_return_drop=0.2, bounds=RANGE)
        assert found.decayed
        assert found.at is not None
        delays.append(found.at - 400)
    assert min(delays) > 0
    assert np.median(delays) <= returns


def test_negative_returns_without_bounds_decay_downwards() -> None:
    generator = np.random.default_rng(3)
    known = Baseline(-150.0, 80.0, 200)
    assert known.threshold(0.2) == pytest.approx(-180.0)
    well, badly = (decay(generator.normal(mean, 80, 1500), known, max_return_drop=0.2) for mean in (-160, -260))
    assert not well.decayed
    assert badly.decayed
    assert badly.drop == pytest.approx(110 / 150, abs=0.2)


def test_what_the_baseline_cannot_tell_is_no_decay() -> None:
    known = Baseline(1.0, 10.0, 25)
    assert known.threshold(0.2) == pytest.approx(1.0 - 2 * 10 / 5)
    assert not decay(np.random.default_rng(4).normal(0.0, 10, 3000), known, max_return_drop=0.2).decayed


def test_looking_later_does_not_change_what_was_found() -> None:
    live = np.concatenate([np.full(50, 500.0), np.full(100, 50.0)])
    whole = decay(live, CARTPOLE, max_return_drop=0.2, bounds=RANGE)
    assert whole.at is not None
    for count in (0, 20, whole.at - 1, whole.at, 150):
        found = decay(live[:count], CARTPOLE, max_return_drop=0.2, bounds=RANGE)
        assert found.at == (whole.at if count >= whole.at else None)


def test_figures_are_those_of_the_last_window() -> None:
    found = decay([500.0] * 10 + [120.0] * 5, CARTPOLE, max_return_drop=0.2, bounds=RANGE, window=5)
    assert (found.mean, found.window, found.returns) == (120.0, 5, 15)
    assert found.drop == pytest.approx(0.75)
    assert "mean return 120 over the last 5 of 15" in found.reason
    nothing = decay([], CARTPOLE, max_return_drop=0.2)
    assert (nothing.decayed, nothing.mean, nothing.evidence) == (False, None, 0.0)


def test_a_baseline_without_spread_is_one() -> None:
    always = Baseline.of([500.0] * 50)
    assert not decay([500.0] * 5000, always, max_return_drop=0.2, bounds=RANGE).decayed
    assert decay([380.0] * 5000, always, max_return_drop=0.2, bounds=RANGE).decayed
    nothing = Baseline(0.0, 0.0, 50)
    assert not decay([0.0] * 1000, nothing, max_return_drop=0.2).decayed


def test_what_is_no_return_is_refused() -> None:
    with pytest.raises(ValueError, match="return 2 of 2 is not finite"):
        decay([1.0, math.nan], CARTPOLE, max_return_drop=0.2)
    with pytest.raises(ValueError, match="at least 2 returns, came 1"):
        Baseline.of([1.0])
