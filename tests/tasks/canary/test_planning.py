"""Planning: simulated canaries end as the judge would end them, and what is suggested does what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tasks.analysis.judge.plan import CanaryPlan
from tasks.analysis.judge.units import Units, within_budget
from tasks.analysis.judge.verdict import decide
from tasks.canary.planning import Planner, Prospect, Ramp
from tasks.canary.simulation import moved, play
from tasks.spec.sections import Canary

GENERATOR = np.random.default_rng(0)
MIXTURE = np.where(GENERATOR.random(200) < 0.7, 500.0, GENERATOR.uniform(100, 500, 200))
PENDULUM = -np.abs(GENERATOR.normal(150, 80, 200))


def section(**fields: Any) -> Canary:
    return Canary(**{"margin": 25.0, "return_range": (0, 500), "max_units_per_arm": 600, **fields})


def planner(returns: np.ndarray = MIXTURE, canaries: int = 60, hourly: float | None = None, **fields: Any) -> Planner:
    return Planner(returns, section(**fields), hourly, canaries)


def draws(blocks: int, *seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The coins and places a simulated canary draws: blocks that double from 128 to 4,096."""
    generator = np.random.default_rng(seed)
    sizes = [min(128 * 2**k, 4096) for k in range(blocks)]
    pairs = [(generator.random(size) < 0.5, generator.integers(len(MIXTURE), size=size)) for size in sizes]
    coins, places = zip(*pairs, strict=True)
    return np.concatenate(coins), np.concatenate(places)


@pytest.mark.parametrize("bounds", [(0.0, 500.0), None], ids=["bounded", "unbounded"])
@pytest.mark.parametrize("objective", ["non_inferiority", "superiority"])
def test_a_simulated_canary_ends_as_the_judge_ends_it(bounds: tuple[float, float] | None, objective: str) -> None:
    made = planner(objective=objective, return_range=bounds)
    plan = CanaryPlan(
        policy="p",
        version="2",
        champion="1",
        generation="g",
        steps=(0.5,),
        units_per_step=10,
        objective=made.rules.objective,
        margin=made.rules.margin,
        alpha=made.rules.alpha,
        bounds=bounds,
        clipped=False,
        abandoned_return=None,
        threshold=0.0,
        max_units_per_arm=made.rules.max_units_per_arm,
        max_hours=24.0,
        latency_slo_ms=50.0,
    )
    verdicts = set()
    for number, difference in enumerate((0.0, 0.0, -20.0, -60.0, -120.0, 40.0)):
        challenger = moved(MIXTURE, difference, bounds)
        assert challenger is not None
        ended = play(made.rules, MIXTURE, challenger, np.random.default_rng([5, number]))
        coins, places = draws(5, 5, number)
        returns = np.where(coins, challenger[places], MIXTURE[places])
        nothing = np.zeros(len(coins), dtype=bool)
        whole = Units(coins, coins, returns, nothing, {"control": 0, "challenger": 0}, 0)
        decision = decide(whole.first(within_budget(coins, 600)), plan)
        assert (ended.verdict, ended.units) == (decision.verdict or "inconclusive", decision.units)
        assert ended.per_arm == max(whole.count(decision.units).values())
        verdicts.add(ended.verdict)
    assert len(verdicts) >= 2


@pytest.mark.parametrize("difference", [0.0, -25.0, -300.0, 40.0])
def test_moved_returns_have_the_mean_that_was_asked_for(difference: float) -> None:
    for bounds in ((0.0, 500.0), None):
        found = moved(MIXTURE, difference, bounds)
        assert found is not None
        assert found.mean() - MIXTURE.mean() == pytest.approx(difference, abs=1e-6)
        assert bounds is None or (found.min() >= 0 and found.max() <= 500)


def test_where_the_bounds_leave_no_room_nothing_is_said() -> None:
    assert moved(np.full(50, 500.0), 15.0, (0.0, 500.0)) is None
    assert planner().prospect("too good", 499.0) == Prospect("too good", 499.0)


def test_hours_follow_the_ramp() -> None:
    ramp = Ramp((0.05, 0.25, 0.5), 10, 100.0)
    # twenty units at a tenth of the traffic, twenty at half of it, then all
    assert ramp.hours(20) == pytest.approx(2.0)
    assert ramp.hours(40) == pytest.approx(2.4)
    assert ramp.hours(140) == pytest.approx(3.4)
    for units in (5.0, 30.0, 1000.0):
        hours = ramp.hours(units)
        assert hours is not None
        assert ramp.units(hours) == pytest.approx(units)
    assert Ramp((0.5,), 10, None).hours(5) is None


def test_the_difference_decides_the_verdict() -> None:
    made = planner()
    equal, lost, worse = (made.prospect(name, value) for name, value in (("", 0.0), ("", -25.0), ("", -240.0)))
    assert equal.promote is not None
    assert lost.promote is not None
    assert equal.promote >= 0.6
    assert equal.roll_back is not None
    assert equal.roll_back <= 0.15
    assert lost.promote <= 0.15
    assert worse.roll_back == 1.0
    assert worse.median_units_per_arm is not None
    assert equal.median_units_per_arm is not None
    assert worse.median_units_per_arm < 20 < equal.median_units_per_arm
    assert equal.promote + equal.roll_back + (equal.inconclusive or 0) == pytest.approx(1.0)


def test_differences_are_the_margin_both_ways_and_deviations() -> None:
    names = dict(planner().differences())
    assert names["the margin gained"] == 25.0 == -names["the margin lost"]
    assert names["-2 SD"] == pytest.approx(-2 * MIXTURE.std(ddof=1))
    assert "+0.5 SD" not in names
    assert "+0.5 SD" in dict(planner(objective="superiority").differences())


def test_hours_run_out_before_units_do_where_traffic_is_thin() -> None:
    thin = planner(hourly=4.0, steps=[0.5], max_hours=10)
    found = thin.prospect("equal", 0.0)
    assert found.inconclusive == 1.0
    assert found.mean_hours == pytest.approx(10.0)
    assert planner(hourly=4.0).prospect("much worse", -240.0).mean_hours is not None
    assert planner().prospect("much worse", -240.0).mean_hours is None


def test_the_suggested_margin_and_budget_promote_as_wished() -> None:
    tight = planner(margin=14.0, canaries=100)
    found = tight.suggest(0.7)
    assert found.margin is not None
    assert found.margin > 14.0
    assert found.max_units_per_arm is not None
    assert found.max_units_per_arm > 600
    fresh = Planner(MIXTURE, section(margin=found.margin), None, 150, seed=9).prospect("equal", 0.0)
    assert fresh.promote is not None
    assert fresh.promote == pytest.approx(0.7, abs=0.15)
    budget = planner(margin=14.0, canaries=100, max_units_per_arm=found.max_units_per_arm).prospect("equal", 0.0)
    assert budget.promote is not None
    assert budget.promote == pytest.approx(0.7, abs=0.02)


def test_for_superiority_a_gain_is_suggested() -> None:
    made = planner(objective="superiority")
    found = made.suggest(0.7)
    assert (found.margin, found.max_units_per_arm) == (None, None)
    assert found.gain is not None
    kept = made.prospect("", found.gain).promote
    half = made.prospect("", found.gain / 2).promote
    assert planner(np.full(50, 500.0), canaries=20, objective="superiority").suggest(0.5).gain is None, "no room"
    assert kept is not None
    assert half is not None
    assert kept >= 0.7 > half


def test_without_hope_nothing_is_suggested() -> None:
    hopeless = planner(canaries=20, max_units_per_arm=3, margin=1.0).suggest(0.9)
    assert (hopeless.margin, hopeless.max_units_per_arm, hopeless.tried) == (None, None, 15)


def test_unbounded_and_clipped_returns_are_planned_too() -> None:
    unbounded = planner(PENDULUM, return_range=None, margin=30.0)
    assert "asymptotic" in unbounded.document([], None)["method"]
    assert unbounded.prospect("", -160.0).roll_back == 1.0
    clipped = planner(PENDULUM, return_range=None, return_clip=(-200, 0), margin=30.0)
    assert clipped.returns.min() == -200
    assert "exact" in clipped.document([], None)["method"]


def test_a_champion_that_always_has_the_same_return_can_be_planned_for() -> None:
    made = planner(np.full(50, 500.0), canaries=20)
    assert [name for name, _ in made.differences()] == ["the margin gained", "equal", "the margin lost"]
    assert made.prospect("equal", 0.0).promote == 1.0
    assert made.suggest(0.8).margin is not None


def test_the_same_seed_gives_the_same_plan() -> None:
    assert planner(canaries=20).prospect("", -30.0) == planner(canaries=20).prospect("", -30.0)
    other = Planner(MIXTURE, section(), None, 20, seed=1)
    assert replace(other.prospect("", -30.0)) != planner(canaries=20).prospect("", -30.0)


@pytest.mark.parametrize(
    ("returns", "fields", "hourly", "said"),
    [
        (np.ones(5), {}, None, "at least 20 returns of the champion, came 5"),
        (np.full(50, 501.0), {}, None, r"return 1, 501, lies outside the spec's return_range \[0, 500\]"),
        (np.append(np.ones(50), np.nan), {"return_range": None}, None, "return 51 of 51 is not finite"),
        (np.ones(50), {"max_hours": 1.0}, 0.5, "no two units start within the spec's 1 hours"),
    ],
)
def test_what_no_plan_can_be_made_from_is_refused(
    returns: np.ndarray, fields: dict[str, Any], hourly: float | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        planner(returns, hourly=hourly, **fields)
