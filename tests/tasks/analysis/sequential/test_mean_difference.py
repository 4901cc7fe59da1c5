"""The exact test of a difference: its definition, its bounds, and data at the edge."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.analysis.sequential.centre import WINDOW
from tasks.analysis.sequential.decision import first_look
from tasks.analysis.sequential.mean_difference import Comparison, confidence, decide, scores, wealth_above, wealth_below
from tasks.analysis.sequential.stakes import AIMED, GRID
from tasks.analysis.sequential.wealth import MOST

BOUNDS = (0.0, 500.0)


def coin(units: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(units) < 0.5


def by_the_book(challenger: np.ndarray, scaled: np.ndarray, margin: float, alpha: float) -> tuple[str | None, int]:
    """The method in plain loops, as described: the first look at which either wealth passes 1/alpha."""
    down, up, aimed, squares = np.ones(len(GRID)), np.ones(len(GRID)), 1.0, 0.25 * 3
    patient = GRID**-0.5 / (GRID**-0.5).sum()
    for place, (arm, value) in enumerate(zip(challenger, scaled, strict=True)):
        earlier = scaled[max(place - WINDOW, 0) : place]
        centre = (0.5 + earlier.sum()) / (1 + len(earlier))
        score, bound = (2 if arm else -2) * (value - centre), 2 * max(centre, 1 - centre)
        square = squares / (3 + place)
        stakes = GRID / math.sqrt(square)
        down *= 1 - np.minimum(stakes, MOST / bound) * score
        most = MOST / (bound - margin)
        up *= 1 + np.minimum(stakes, most) * (score + margin)
        aimed *= 1 + min(margin / square, most) * (score + margin)
        squares += score**2
        if down.mean() >= 1 / alpha:
            return "roll_back", place + 1
        if (1 - AIMED) * (up @ patient) + AIMED * aimed >= 1 / alpha:
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
    assert (bound[31:60] != bound_after[31:60]).any()
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


def test_a_bound_that_decided_excludes_what_it_was_held_against() -> None:
    for seed in range(60):
        challenger = coin(1500, seed)
        shift = 60.0 if seed % 2 else -60.0
        returns = np.clip(np.random.default_rng(seed).normal(250, 80, 1500) + shift * challenger, *BOUNDS)
        found = decide(challenger, returns, bounds=BOUNDS, margin=25, alpha=0.05, objective="superiority")
        assert found.bounds.lower is not None
        assert found.bounds.upper is not None
        assert found.verdict in ("promote", "roll_back")
        assert (found.bounds.lower > 0) if found.verdict == "promote" else (found.bounds.upper < 0)


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


def test_the_wealth_falls_as_the_hypothesis_grows_so_that_bounds_are_one_point() -> None:
    challenger = coin(400, seed=13)
    scaled = np.random.default_rng(14).beta(4, 2, 400)
    score, bound = scores(challenger, scaled)
    ladder = np.array([wealth_below(score, bound, d, 0.02) for d in np.linspace(-1, 1, 81)])
    assert (np.diff(ladder, axis=0) <= 1e-9).all()


@settings(deadline=None, max_examples=40)
@given(
    cuts=st.lists(st.integers(0, 900), max_size=12),
    seed=st.integers(0, 50),
    shift=st.sampled_from([-0.3, -0.1, 0.0, 0.1]),
    clipped=st.booleans(),
)
def test_the_verdict_falls_at_the_same_unit_whatever_the_batching(
    cuts: list[int], seed: int, shift: float, clipped: bool
) -> None:
    challenger = coin(900, seed)
    generator = np.random.default_rng(seed + 1000)
    covariate = generator.normal(size=900) if clipped else None
    returns = (generator.beta(4, 2, 900) + shift * challenger).clip(0, 1)
    kind = {"bounds": (0.0, 1.0), "margin": 0.04, "alpha": 0.05, "objective": "non_inferiority"}
    whole = decide(challenger, returns, covariate=covariate, **kind)  # type: ignore[arg-type]
    fed = Comparison(**kind)  # type: ignore[arg-type]
    for begin, end in itertools.pairwise([0, *sorted(cuts), 900]):
        part = slice(begin, end)
        fed.feed(challenger[part], returns[part], None if covariate is None else covariate[part])
    assert fed.decision() == whole


def test_units_one_by_one_are_the_same_as_all_at_once() -> None:
    challenger = coin(700, seed=21)
    returns = (np.random.default_rng(22).beta(4, 2, 700) - 0.1 * challenger).clip(0, 1)
    kind = {"bounds": (0.0, 1.0), "margin": 0.02, "alpha": 0.05, "objective": "superiority"}
    fed = Comparison(**kind)  # type: ignore[arg-type]
    while fed.verdict is None and fed.units < 700:
        fed.feed(challenger[fed.units : fed.units + 1], returns[fed.units : fed.units + 1])
    assert fed.verdict == "roll_back"
    assert fed.decision() == decide(challenger, returns, **kind)  # type: ignore[arg-type]


def test_a_covariate_that_explains_returns_saves_units_and_one_that_does_not_costs_few() -> None:
    def units(explains: float, used: bool) -> float:
        needed = []
        for seed in range(40):
            generator, challenger = np.random.default_rng(seed), coin(6000, seed)
            covariate = generator.normal(size=6000)
            noise = generator.normal(size=6000)
            returns = 0.5 + 0.1 * (explains * covariate + math.sqrt(1 - explains**2) * noise) - 0.03 * challenger
            found = decide(
                challenger,
                returns.clip(0, 1),
                bounds=(0, 1),
                margin=0.01,
                alpha=0.05,
                objective="non_inferiority",
                covariate=covariate if used else None,
            )
            needed.append(found.units)
        return float(np.median(needed))

    assert units(0.8, used=True) < 0.6 * units(0.8, used=False)
    assert units(0.0, used=True) < 1.15 * units(0.0, used=False)


def test_each_bound_holds_at_every_look_with_its_own_confidence() -> None:
    missed = {"lower": 0, "upper": 0}
    for seed in range(300):
        challenger = coin(600, seed)
        scaled = np.random.default_rng(seed + 500).beta(4, 2, 600) * 0.8 + 0.1 * challenger
        score, bound = scores(challenger, scaled)
        needed = math.log(1 / 0.05)
        # a bound that ever passes the truth is a wealth against the truth that ever passes 1/alpha
        missed["lower"] += bool((wealth_below(score, bound, 0.1) >= needed).any())
        missed["upper"] += bool((wealth_above(score, bound, 0.1) >= needed).any())
    for count in missed.values():
        assert count / 300 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
        assert count > 0, "a bound that never misses is wider than it says"


def test_an_anchor_moves_what_a_promotion_must_show_and_nothing_else() -> None:
    challenger = coin(4000, seed=5)
    returns = np.random.default_rng(6).normal(250, 30, 4000).clip(*BOUNDS)
    kind = {"bounds": BOUNDS, "margin": 20.0, "alpha": 0.05, "objective": "non_inferiority"}
    free = decide(challenger, returns, **kind)  # type: ignore[arg-type]
    anchored = decide(challenger, returns, floor=-5.0, **kind)  # type: ignore[arg-type]
    assert free.verdict == "promote"
    assert anchored.verdict is None or anchored.units > free.units
    assert free.bounds.lower is not None
    assert free.bounds.lower >= -20.0


def test_bounds_tighten_as_units_come_in() -> None:
    challenger = coin(4000, seed=30)
    score, bound = scores(challenger, np.random.default_rng(31).beta(4, 2, 4000))
    widths = [np.subtract(*confidence(score[:n], bound[:n], 0.05)[::-1]) for n in (0, 10, 100, 1000, 4000)]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == 2.0
    assert widths[-1] < 0.05
