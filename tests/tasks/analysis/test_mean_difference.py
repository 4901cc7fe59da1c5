"""The exact test of a difference: its definition, its bounds, and data at the edge."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.analysis.betting import FRACTIONS
from tasks.analysis.decision import first_look
from tasks.analysis.mean_difference import decide, scores

BOUNDS = (0.0, 500.0)


def coin(units: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(units) < 0.5


def by_the_book(challenger: np.ndarray, scaled: np.ndarray, margin: float, alpha: float) -> tuple[str | None, int]:
    """The method in plain loops, as published: the first look at which either wealth passes 1/alpha."""
    down, up, total = np.ones(len(FRACTIONS)), np.ones(len(FRACTIONS)), 0.0
    for place, (arm, value) in enumerate(zip(challenger, scaled, strict=True)):
        centre = total / place if place else 0.5
        score, bound = (2 if arm else -2) * (value - centre), 2 * max(centre, 1 - centre)
        down *= 1 - FRACTIONS * score / bound
        up *= 1 + FRACTIONS * (score + margin) / (bound + margin)
        total += value
        if down.mean() >= 1 / alpha:
            return "roll_back", place + 1
        if up.mean() >= 1 / alpha:
            return "promote", place + 1
    return None, len(scaled)


@pytest.mark.parametrize("shift", [-0.3, -0.1, 0.0, 0.1, 0.3])
def test_the_verdict_falls_at_the_unit_of_the_published_method(shift: float) -> None:
    challenger = coin(1500, seed=3)
    returns = np.clip(np.random.default_rng(4).beta(4, 2, 1500) + shift * challenger, 0, 1)
    expected = by_the_book(challenger, returns, 0.02, 0.05)
    found = decide(challenger, 500 * returns, bounds=BOUNDS, margin=10, alpha=0.05, objective="non_inferiority")
    assert (found.verdict, found.units) == expected


def test_the_centre_never_looks_at_the_unit_itself_or_later_ones() -> None:
    challenger, scaled = coin(50), np.random.default_rng(1).random(50)
    changed = scaled.copy()
    changed[30:] = 0.0
    before, bound = scores(challenger, scaled)
    after, bound_after = scores(challenger, changed)
    np.testing.assert_array_equal(before[:30], after[:30])
    np.testing.assert_array_equal(bound[:31], bound_after[:31])
    assert (np.abs(before) <= bound + 1e-12).all()


@pytest.mark.parametrize("objective", ["non_inferiority", "superiority"])
@pytest.mark.parametrize("shift", [-120.0, -20.0, 0.0, 20.0, 120.0])
def test_bounds_and_verdict_never_disagree(objective: str, shift: float) -> None:
    challenger = coin(800, seed=8)
    returns = np.clip(np.random.default_rng(9).normal(300, 60, 800) + shift * challenger, *BOUNDS)
    found = decide(challenger, returns, bounds=BOUNDS, margin=25, alpha=0.05, objective=objective)  # type: ignore[arg-type]
    floor = 0.0 if objective == "superiority" else -25.0
    assert found.bounds.lower is not None
    assert found.bounds.upper is not None
    assert (found.verdict == "promote") == (found.bounds.lower >= floor)
    assert (found.verdict == "roll_back") == (found.bounds.upper <= 0.0)


def test_superiority_asks_for_more_than_not_worse() -> None:
    challenger = coin(3000, seed=5)
    returns = np.random.default_rng(6).normal(250, 30, 3000).clip(*BOUNDS)
    kind = {"bounds": BOUNDS, "margin": 20.0, "alpha": 0.05}
    assert decide(challenger, returns, objective="non_inferiority", **kind).verdict == "promote"  # type: ignore[arg-type]
    assert decide(challenger, returns, objective="superiority", **kind).verdict is None  # type: ignore[arg-type]


def test_equal_returns_promote_when_not_worse_is_asked_and_decide_nothing_else() -> None:
    challenger, returns = coin(2000), np.full(2000, 500.0)
    found = decide(challenger, returns, bounds=BOUNDS, margin=15, alpha=0.05, objective="non_inferiority")
    assert found.verdict == "promote"
    assert found.bounds.estimate == 0.0
    assert found.bounds.lower is not None
    assert found.bounds.lower >= -15.0
    assert decide(challenger, returns, bounds=BOUNDS, margin=15, alpha=0.05, objective="superiority").verdict is None


@pytest.mark.parametrize("arm", [True, False])
def test_nothing_is_decided_while_an_arm_is_empty(arm: bool) -> None:
    challenger, returns = np.full(1000, arm), np.linspace(0, 500, 1000)
    found = decide(challenger, returns, bounds=BOUNDS, margin=15, alpha=0.05, objective="non_inferiority")
    assert found.verdict is None
    assert found.bounds.estimate is None


def test_without_units_the_bounds_are_the_span() -> None:
    empty = np.zeros(0)
    found = decide(empty.astype(bool), empty, bounds=BOUNDS, margin=15, alpha=0.05, objective="non_inferiority")
    assert (found.verdict, found.units) == (None, 0)
    assert (found.bounds.lower, found.bounds.upper) == (-500.0, 500.0)


def test_both_sides_at_one_look_is_roll_back() -> None:
    at_two = np.array([False, True, True])
    assert first_look(promote=at_two, roll_back=at_two) == ("roll_back", 2)
    assert first_look(promote=at_two, roll_back=np.array([False, False, True])) == ("promote", 2)


def test_the_scale_of_returns_changes_nothing() -> None:
    challenger = coin(600, seed=11)
    returns = np.random.default_rng(12).random(600) - 0.1 * challenger
    returns = returns.clip(0, 1)
    one = decide(challenger, returns, bounds=(0, 1), margin=0.05, alpha=0.05, objective="non_inferiority")
    other = decide(challenger, 40 * returns - 30, bounds=(-30, 10), margin=2, alpha=0.05, objective="non_inferiority")
    assert (one.verdict, one.units) == (other.verdict, other.units)
    assert other.bounds.upper == pytest.approx(40 * (one.bounds.upper or math.nan), abs=1e-3)
